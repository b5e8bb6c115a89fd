"""What differs between two releases, from their signed bytes alone."""

from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from command_line import mailboat
from mailboat_controller.cli import output
from mailboat_controller.releases.build import DOCUMENT_NAME
from mailboat_controller.releases.release_diff import Part, counted, release_diff
from trust_fleet import CLASS, document


def variant(*classes: str, **changes: Any) -> dict[str, Any]:
    content: dict[str, Any] = {
        "hardware_classes": list(classes) or [CLASS],
        "files": [{"path": "m.onnx", "role": "model", "sha256": "ab" * 32, "length": 4}],
        "runtime": {"version": ">=1.18"},
        "peak_memory": 1 << 20,
        "health": {},
    }
    return content | changes


def test_two_releases_that_differ_in_nothing_but_the_version_have_no_difference() -> None:
    assert release_diff(document("1.0.0"), document("1.1.0")) == ()


def test_what_is_the_same_is_shown_when_it_is_asked_for() -> None:
    found = release_diff(document("1.0.0"), document("1.1.0"), unchanged=True)

    assert {each.part for each in found} == set(Part) - {Part.ORIGIN}
    assert not any(each.is_change for each in found)
    assert sum(counted(found).values()) == 0


def test_a_larger_file_says_by_how_many_bytes() -> None:
    larger = {"path": "m.onnx", "role": "model", "sha256": "cd" * 32, "length": 1004}
    after = document("1.1.0", variants=[variant(files=[larger])])
    (change,) = release_diff(document("1.0.0"), after)

    assert (change.part, change.what, change.classes) == (Part.FILES, "m.onnx", (CLASS,))
    assert change.grown_by == 1000
    assert change.before == f"model, 4 bytes, sha256 {'ab' * 32}"
    assert change.after == f"model, 1,004 bytes, sha256 {'cd' * 32}"


def test_a_file_that_is_new_and_one_that_is_gone_have_one_side() -> None:
    model = {"path": "m.onnx", "role": "model", "sha256": "ab" * 32, "length": 4}
    labels = {"path": "labels.txt", "role": "labels", "sha256": "ef" * 32, "length": 7}
    with_labels = document("1.1.0", variants=[variant(files=[model, labels])])

    (came,) = release_diff(document("1.0.0"), with_labels)
    (went,) = release_diff(with_labels, document("1.2.0"))

    assert (came.before, came.grown_by) == (None, 7)
    assert (went.after, went.grown_by) == (None, -7)


def test_classes_that_change_alike_are_told_of_once() -> None:
    before = document("1.0.0", variants=[variant("camera", "gateway", CLASS)])
    others = variant("camera", CLASS, peak_memory=2 << 20)
    after = document("1.1.0", variants=[others, variant("gateway")])
    (change,) = release_diff(before, after)

    assert (change.part, change.what) == (Part.REQUIREMENTS, "peak memory")
    assert change.classes == ("camera", CLASS)
    assert change.grown_by == 1 << 20


def test_a_class_that_joins_brings_its_files_and_requirements() -> None:
    after = document("1.1.0", variants=[variant(), variant("camera")])
    found = release_diff(document("1.0.0"), after)

    assert {each.classes for each in found} == {("camera",)}
    assert all(each.before is None for each in found)
    assert {Part.FILES, Part.REQUIREMENTS, Part.METRICS} == {each.part for each in found}


def test_gates_count_as_metrics_and_the_interface_by_name_and_place() -> None:
    y = {"name": "y", "dtype": "float32", "shape": [-1, 1]}
    x = {"name": "x", "dtype": "float32", "shape": [-1, 4]}
    after = document(
        "2.0.0",
        interface={"inputs": [{"name": "z", "dtype": "int8", "shape": [2]}, x], "outputs": [y]},
        variants=[variant(health={"latency_p95_ms_max": 12.5, "soak": {"seconds": 60}})],
        compatibility={"feature_schema": ">=3"},
        security_version=4,
    )
    found = {(each.part, each.what): each for each in release_diff(document("1.0.0"), after)}

    assert found[Part.METRICS, "latency p95 ms max"].after == "12.5"
    assert found[Part.METRICS, "soak seconds"].before == "300"
    assert found[Part.INTERFACE, "input x"].after == "2: float32 [any, 4]"
    assert found[Part.INTERFACE, "input z"].before is None
    assert found[Part.REQUIREMENTS, "security version"].after == "4"
    assert found[Part.REQUIREMENTS, "compatible feature schema"].after == ">=3"


_TEXT = st.text(max_size=20).filter(lambda text: "\x00" not in text)


@settings(max_examples=25)
@given(st.tuples(_TEXT, _TEXT), st.tuples(st.integers(0, 9), st.integers(0, 9)))
def test_the_way_back_has_the_same_changes_the_other_way_round(
    texts: tuple[str, str], versions: tuple[int, int]
) -> None:
    old, new = (
        document(f"1.{n}.0", provenance={"dataset": text}, security_version=version)
        for n, (text, version) in enumerate(zip(texts, versions, strict=True))
    )
    there, back = release_diff(old, new), release_diff(new, old)

    assert [(each.what, each.before, each.after) for each in there] == [
        (each.what, each.after, each.before) for each in back
    ]
    assert bool(there) == (texts[0] != texts[1] or versions[0] != versions[1])


def built(directory: Path, version: str, **changes: Any) -> Path:
    directory.mkdir()
    (directory / DOCUMENT_NAME).write_bytes(document(version, **changes).canonical_bytes())
    return directory


def test_the_command_compares_builds_before_anybody_signs_them(tmp_path: Path) -> None:
    old = built(tmp_path / "old", "1.0.0")
    new = built(tmp_path / "new", "1.1.0", security_version=2)
    same = built(tmp_path / "same", "1.2.0")

    said = mailboat("release", "diff", old, new, "--json")
    assert said.code == output.EXIT_DIFFERENT
    (row,) = said.json
    assert (row["part"], row["what"]) == ("requirements", "security version")
    assert (row["before"], row["after"]) == ("0", "2")
    assert mailboat("release", "diff", old, same).code == 0
    everything = mailboat("release", "diff", old, same, "--all", "--json")
    assert (everything.code, len(everything.json) > 10) == (0, True)


def test_the_command_says_what_a_release_is_called(tmp_path: Path) -> None:
    said = mailboat("release", "diff", "nothing", "1.0.0", "--json")

    assert said.code == output.EXIT_NOT_FOUND
    assert "MODEL@VERSION" in said.err

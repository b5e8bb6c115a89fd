"""Which way a file comes: the rule, and what is said about the ways that lost."""

import hashlib
from pathlib import Path

import pytest

from mailboat_controller.deltas import portfolio
from mailboat_controller.deltas.portfolio import Candidate, Portfolio, Selection, select
from weights import fine_tuned, safetensors, weights

MIB = 1 << 20


def candidate(form: str, size: int, memory_mib: int = 8) -> Candidate:
    return Candidate(
        format=form,
        patch=Path("not-there"),
        size_bytes=size,
        memory_bytes=memory_mib * MIB,
        build_seconds=1.0,
        target_length=1000,
    )


def selected(*candidates: Candidate, memory_mib: int = 64) -> Selection:
    return select(Portfolio(1000, candidates, {}), memory_bytes_max=memory_mib * MIB)


def why(selection: Selection, form: str) -> str:
    return next(row.because for row in selection.rows if row.format == form)


def formats(selection: Selection) -> tuple[str | None, str | None]:
    delta, full = selection.delta, selection.full
    return delta.format if delta else None, full.format if full else None


def test_the_smallest_ships() -> None:
    choice = selected(
        candidate("full-zstd/1", 800),
        candidate("zstd-patch/1", 500),
        candidate("tensor-delta/1", 300),
    )

    assert formats(choice) == ("tensor-delta/1", "full-zstd/1")
    assert why(choice, "tensor-delta/1") == "wins"
    assert why(choice, "zstd-patch/1") == "1.67 times as large as tensor-delta/1"


def test_a_delta_has_to_be_under_nine_tenths_of_the_best_full_download() -> None:
    full = candidate("full-zstd/1", 800)

    assert formats(selected(full, candidate("tensor-delta/1", 719)))[0] == "tensor-delta/1"
    choice = selected(full, candidate("tensor-delta/1", 720))
    assert formats(choice) == (None, "full-zstd/1")
    assert why(choice, "tensor-delta/1") == "90% of what it has to beat, more than 90%"


def test_a_full_download_that_hardly_shrinks_stays_as_it_is() -> None:
    choice = selected(candidate("full-zstd/1", 900), candidate("tensor-delta/1", 899))

    assert formats(choice) == ("tensor-delta/1", None)


def test_what_the_class_has_no_memory_for_does_not_ship() -> None:
    choice = selected(
        candidate("zstd-patch/1", 100, memory_mib=65), candidate("tensor-delta/1", 300, 30)
    )

    assert formats(choice)[0] == "tensor-delta/1"
    assert why(choice, "zstd-patch/1") == "takes 65 MiB of memory, the class gives 64"


def test_of_those_about_as_small_the_one_with_least_memory_ships() -> None:
    choice = selected(
        candidate("zstd-patch/1", 100, memory_mib=60), candidate("tensor-delta/1", 105, 33)
    )

    assert formats(choice)[0] == "tensor-delta/1"
    assert why(choice, "zstd-patch/1") == "about as small as tensor-delta/1, and takes more memory"
    dearer = selected(candidate("zstd-patch/1", 100, 60), candidate("tensor-delta/1", 106, 33))
    assert formats(dearer)[0] == "zstd-patch/1"


def test_little_memory_is_as_good_as_less() -> None:
    choice = selected(candidate("zstd-patch/1", 105, 8), candidate("tensor-delta/1", 100, 32))

    assert formats(choice)[0] == "tensor-delta/1"


@pytest.mark.parametrize("as_paths", [False, True])
def test_a_fine_tune_ships_as_a_tensor_delta(tmp_path: Path, as_paths: bool) -> None:
    before = weights()
    contents = {"base": safetensors(before), "target": safetensors(fine_tuned(before))}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    base, target = (
        (tmp_path / name if as_paths else contents[name]) for name in ("base", "target")
    )

    scratch = tmp_path / "scratch"
    scratch.mkdir()
    built = portfolio.build(base, target, scratch)
    choice = select(built, memory_bytes_max=64 * MIB)

    assert {each.format for each in built.candidates} == {
        "full-zstd/1",
        "full-planes/1",
        "zstd-patch/1",
        "tensor-delta/1",
    }
    assert formats(choice) == ("tensor-delta/1", "full-planes/1")
    assert choice.delta is not None
    assert choice.full is not None
    told = portfolio.describe(choice.delta, base, target)
    assert told.base == hashlib.sha256(contents["base"]).hexdigest()
    assert told.base_length == len(contents["base"])
    assert told.target == hashlib.sha256(contents["target"]).hexdigest()
    assert told.patch == hashlib.sha256(choice.delta.patch.read_bytes()).hexdigest()
    whole = portfolio.describe(choice.full, base, target)
    assert (whole.base, whole.base_length, whole.target) == (None, 0, told.target)


def test_without_a_base_there_are_whole_downloads_only(tmp_path: Path) -> None:
    built = portfolio.build(None, safetensors(weights()), tmp_path)

    assert {each.format for each in built.candidates} == {"full-zstd/1", "full-planes/1"}


def test_what_does_not_depend_on_the_base_need_not_be_built_for_each(tmp_path: Path) -> None:
    built = portfolio.build(b"base" * 99, b"target" * 99, tmp_path, {"zstd-patch/1"})

    assert [each.format for each in built.candidates] == ["zstd-patch/1"]
    assert [path.name for path in tmp_path.iterdir()] == ["zstd-patch-1.patch"]


def test_what_cannot_be_built_is_explained(tmp_path: Path) -> None:
    choice = select(portfolio.build(b"base", b"", tmp_path), memory_bytes_max=MIB)

    assert formats(choice) == (None, None)
    assert {row.format for row in choice.rows if "empty" in row.because} == {
        "full-zstd/1",
        "full-planes/1",
        "zstd-patch/1",
        "tensor-delta/1",
    }

"""The same input gives the same bytes, wherever and whenever; what cannot be built says why."""

import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from mailboat_controller.releases import blobs as release_blobs
from mailboat_controller.releases.build import Build, build_release, plan_of, read_build
from mailboat_schemas import cohort
from mailboat_schemas.documents import Rollout
from mailboat_schemas.documents.release import document_digest
from mailboat_schemas.errors import (
    ConfigurationInvalid,
    DocumentInvalid,
    MalformedPayload,
)
from small_disk import run_on_small_disk

FILES = {"model.onnx": b"weights" * 1000, "golden.npz": b"samples", "labels.txt": b"cat\ndog\n"}


def release(version: str = "1.0.0") -> dict[str, Any]:
    """Two variants that share their golden samples."""

    def variant(hardware_class: str, model: str) -> dict[str, Any]:
        return {
            "hardware_classes": [hardware_class],
            "files": [
                {"path": "m.onnx", "source": model, "role": "model"},
                {"path": "golden.npz", "source": "golden.npz", "role": "golden"},
            ],
            "peak_memory": "64MiB",
        }

    return {
        "apiVersion": "mailboat/v1",
        "kind": "Release",
        "metadata": {"name": "vad", "version": version},
        "spec": {
            "interface": {
                "inputs": [{"name": "x", "dtype": "float32", "shape": [-1, 4]}],
                "outputs": [{"name": "y", "dtype": "float32", "shape": [-1, 1]}],
            },
            "variants": [variant("kiosk-x86", "model.onnx"), variant("cam-arm", "labels.txt")],
        },
    }


def write_source(directory: Path, content: dict[str, Any] | None = None) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    for name, data in FILES.items():
        (directory / name).write_bytes(data)
    source = directory / "release.yaml"
    source.write_text(yaml.safe_dump(content or release()))
    return source


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_source(tmp_path / "source")


def tree(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


class TestSameInputSameBytes:
    def test_in_other_directories_at_other_times_from_another_place(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = build_release(write_source(tmp_path / "here"), tmp_path / "built")
        elsewhere = write_source(tmp_path / "a" / "deeper" / "place")
        for path in elsewhere.parent.iterdir():
            os.utime(path, (1, 1))
            path.chmod(0o600)
        monkeypatch.chdir(elsewhere.parent)
        monkeypatch.setenv("TZ", "Pacific/Kiritimati")
        second = build_release(Path("release.yaml"), Path("out"))

        assert tree(tmp_path / "built") == tree(elsewhere.parent / "out")
        assert first.digest == second.digest

    def test_in_another_process_with_another_hash_seed(self, source: Path, tmp_path: Path) -> None:
        here = build_release(source, tmp_path / "here")
        program = (
            "import sys; from pathlib import Path;"
            "from mailboat_controller.releases.build import build_release;"
            "build_release(Path(sys.argv[1]), Path(sys.argv[2]))"
        )
        subprocess.run(
            [sys.executable, "-c", program, str(source), str(tmp_path / "there")],
            env={**os.environ, "PYTHONHASHSEED": "1", "LANG": "C"},
            check=True,
        )

        assert tree(here.directory) == tree(tmp_path / "there")

    def test_in_the_same_directory_again(self, source: Path, tmp_path: Path) -> None:
        build_release(source, tmp_path / "out")
        before = tree(tmp_path / "out")
        build_release(source, tmp_path / "out")

        assert tree(tmp_path / "out") == before

    def test_nothing_of_the_machine_goes_in(self, source: Path, tmp_path: Path) -> None:
        built = build_release(source, tmp_path / "out")

        for trace in (str(tmp_path), os.uname().nodename, str(datetime.now(UTC).year), "source"):
            assert trace.encode() not in built.content.replace(b"source_", b"")

    def test_where_it_comes_from_does(self, source: Path, tmp_path: Path) -> None:
        provenance = build_release(source, tmp_path / "out").document.provenance

        assert provenance.source_digest == document_digest(source.read_bytes())
        assert re.fullmatch(r"mailboat \d+\.\d+\.\d+.*", provenance.builder)


class TestBlobs:
    def test_every_file_lies_under_its_digest(self, source: Path, tmp_path: Path) -> None:
        built = build_release(source, tmp_path / "out")

        for file in built.document.files():
            content = built.blob(file).read_bytes()
            assert document_digest(content) == file.sha256
            assert len(content) == file.length
        assert built.missing_blobs() == ()

    def test_a_file_of_two_variants_is_stored_and_read_once(
        self, source: Path, tmp_path: Path
    ) -> None:
        read: list[int] = []
        built = build_release(source, tmp_path / "out", read.append)

        assert len(list((tmp_path / "out" / "blobs").iterdir())) == 3
        assert len(built.document.files()) == 3
        assert sum(read) == sum(map(len, FILES.values()))

    def test_a_symbolic_link_stands_for_what_it_points_to(
        self, source: Path, tmp_path: Path
    ) -> None:
        plain = build_release(source, tmp_path / "plain")
        model = source.parent / "model.onnx"
        model.rename(tmp_path / "elsewhere.onnx")
        model.symlink_to(tmp_path / "elsewhere.onnx")
        linked = build_release(source, tmp_path / "linked")

        assert tree(plain.directory) == tree(linked.directory)
        assert not any(path.is_symlink() for path in linked.directory.rglob("*"))

    def test_of_an_earlier_build_do_not_get_into_the_document(
        self, source: Path, tmp_path: Path
    ) -> None:
        build_release(source, tmp_path / "out")
        (source.parent / "model.onnx").write_bytes(b"better weights")
        again = build_release(source, tmp_path / "out")
        fresh = build_release(source, tmp_path / "fresh")

        assert again.content == fresh.content

    @pytest.mark.parametrize(
        ("spoil", "problem"),
        [
            (lambda path: path.unlink(), "No such file"),
            (lambda path: (path.unlink(), path.mkdir()), "is not a file"),
            (lambda path: (path.unlink(), path.symlink_to("nowhere")), "No such file"),
            (lambda path: (path.unlink(), path.symlink_to(path)), "symbolic links"),
            (lambda path: (path.unlink(), os.mkfifo(path)), "is not a file"),
            (lambda path: (path.unlink(), path.symlink_to("/dev/zero")), "is not a file"),
            (lambda path: path.write_bytes(b""), "is empty"),
        ],
    )
    def test_what_cannot_be_a_file_of_a_release_says_so_and_leaves_nothing(
        self, source: Path, tmp_path: Path, spoil: Any, problem: str
    ) -> None:
        spoil(source.parent / "model.onnx")

        with pytest.raises(DocumentInvalid) as refused:
            build_release(source, tmp_path / "out")
        assert problem in refused.value.what
        assert "model.onnx" in refused.value.what
        assert tree(tmp_path / "out") == {}

    def test_a_file_is_as_large_as_allowed_and_not_a_byte_larger(
        self, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        size = len(FILES["model.onnx"])
        monkeypatch.setattr(release_blobs, "ARTIFACT_BYTES_MAX", size)
        build_release(source, tmp_path / "fits")

        monkeypatch.setattr(release_blobs, "ARTIFACT_BYTES_MAX", size - 1)
        with pytest.raises(DocumentInvalid, match="is larger than"):
            build_release(source, tmp_path / "out")
        assert tree(tmp_path / "out") == {}

    def test_a_full_disk_is_told_as_one(self, source: Path, tmp_path: Path) -> None:
        (source.parent / "model.onnx").write_bytes(os.urandom(2 << 20))
        program = f"""
            from mailboat_controller.releases.build import build_release
            from mailboat_schemas.errors import DiskFull
            try:
                build_release(pathlib.Path({str(source)!r}), DISK / "out")
            except DiskFull:
                pass
            else:
                raise SystemExit("it fitted")
            assert not [path for path in DISK.rglob("*") if path.is_file()]
        """
        run_on_small_disk(tmp_path / "disk", 1 << 20, program)

    def test_a_directory_that_cannot_be_made_says_so(self, source: Path, tmp_path: Path) -> None:
        (tmp_path / "taken").write_text("a file")

        with pytest.raises(ConfigurationInvalid):
            build_release(source, tmp_path / "taken")


class TestACrash:
    PROGRAM = """
import os, sys
from pathlib import Path
from mailboat_controller.releases import blobs as release_blobs
from mailboat_controller.releases import build as release_build

left = int(sys.argv[3])
def die_in_the_middle(count):
    global left
    left -= 1
    if left < 0:
        os._exit(9)
release_blobs._CHUNK_BYTES = 512
release_build.build_release(Path(sys.argv[1]), Path(sys.argv[2]), die_in_the_middle)
"""

    @pytest.mark.parametrize(
        "chunks", [*(pytest.param(each, marks=pytest.mark.slow) for each in (0, 13)), 14]
    )
    def test_leaves_no_half_blob_under_a_digest_and_the_next_build_cleans_up(
        self, source: Path, tmp_path: Path, chunks: int
    ) -> None:
        words = [
            sys.executable,
            "-c",
            self.PROGRAM,
            str(source),
            str(tmp_path / "out"),
            str(chunks),
        ]
        assert subprocess.run(words, check=False).returncode == 9

        names = [path.name for path in (tmp_path / "out" / "blobs").iterdir()]
        for name in names:
            content = (tmp_path / "out" / "blobs" / name).read_bytes()
            assert name.endswith(".part") or document_digest(content) == name
        assert any(name.endswith(".part") for name in names)
        with pytest.raises(ConfigurationInvalid):
            read_build(tmp_path / "out")

        build_release(source, tmp_path / "out")
        build_release(source, tmp_path / "fresh")
        assert tree(tmp_path / "out") == tree(tmp_path / "fresh")


class TestTheDirectory:
    def test_is_read_as_it_was_built(self, source: Path, tmp_path: Path) -> None:
        built = _built(source, tmp_path / "out")

        assert read_build(tmp_path / "out") == built

    def test_keeps_roles_while_the_document_is_the_same(self, source: Path, tmp_path: Path) -> None:
        _built(source, tmp_path / "out").write_role("release-vad", b"signed")

        assert _built(source, tmp_path / "out").roles() == {"release-vad": b"signed"}

    def test_forgets_roles_that_were_signed_for_another_document(
        self, source: Path, tmp_path: Path
    ) -> None:
        _built(source, tmp_path / "out").write_role("release-vad", b"signed")
        write_source(source.parent, release("1.0.1"))

        assert _built(source, tmp_path / "out").roles() == {}

    def test_knows_which_blobs_are_gone(self, source: Path, tmp_path: Path) -> None:
        built = _built(source, tmp_path / "out")
        file = built.document.files()[0]
        built.blob(file).unlink()

        assert built.missing_blobs() == (file,)

    def test_without_a_build_says_what_to_run(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationInvalid) as refused:
            read_build(tmp_path)
        assert "mailboat release build" in refused.value.next_step

    def test_with_an_altered_document_is_not_read(self, source: Path, tmp_path: Path) -> None:
        _built(source, tmp_path / "out")
        (tmp_path / "out" / "release.json").write_bytes(b"{}")

        with pytest.raises(MalformedPayload):
            read_build(tmp_path / "out")


def _built(source: Path, directory: Path) -> Build:
    return build_release(source, directory)


def test_a_mistake_in_the_yaml_points_at_it_and_makes_nothing(tmp_path: Path) -> None:
    content = release()
    content["spec"]["interfaec"] = content["spec"].pop("interface")
    source = write_source(tmp_path / "source", content)

    with pytest.raises(DocumentInvalid) as refused:
        build_release(source, tmp_path / "out")
    assert re.search(r"release\.yaml:\d+:\d+", refused.value.what)
    assert "interface" in refused.value.next_step
    assert not (tmp_path / "out").exists()


def rollout(*waves: dict[str, Any], **spec: Any) -> Rollout:
    return Rollout.model_validate(
        {
            "apiVersion": "mailboat/v1",
            "kind": "Rollout",
            "metadata": {"name": "first"},
            "spec": {"release": {"model": "vad", "version": "1.0.0"}, "waves": waves, **spec},
        }
    )


class TestThePlan:
    def test_of_pilots_and_everybody_needs_no_number_of_devices(self) -> None:
        plan = plan_of(rollout({"pilots": ["a", "b"]}, {"percent": 100}), None)

        assert [(len(w.pilots), w.count_ppm, w.cap_ppm) for w in plan.waves] == [
            (2, 0, 0),
            (0, cohort.PPM, cohort.PPM),
        ]

    @pytest.mark.parametrize("wave", [{"percent": 8}, {"devices": 8}, {"percent": 99.9}])
    def test_of_a_part_needs_it(self, wave: dict[str, Any]) -> None:
        with pytest.raises(ConfigurationInvalid, match="depends on how many"):
            plan_of(rollout(wave), None)

    def test_eight_of_a_hundred_may_cover_a_fifth_of_the_hash_space(self) -> None:
        by_share = plan_of(rollout({"percent": 8}), 100).waves[0]
        by_count = plan_of(rollout({"devices": 8}), 100).waves[0]

        assert (by_share.count_ppm, by_count.count) == (80_000, 8)
        assert by_share.cap_ppm == by_count.cap_ppm == pytest.approx(211_949, abs=1)

    def test_as_many_devices_as_the_class_has_are_all(self) -> None:
        assert plan_of(rollout({"devices": 10}), 10).waves[0].cap_ppm == cohort.PPM
        assert plan_of(rollout({"devices": 11}), 10).waves[0].cap_ppm == cohort.PPM

    def test_a_share_of_a_small_class_is_rounded_up_to_a_device(self) -> None:
        assert plan_of(rollout({"percent": 1}), 10).waves[0].cap_ppm == cohort.cap_ppm(1, 10)

    @pytest.mark.parametrize("percent", [1e-9, 0.00004])
    def test_a_wave_is_never_rounded_down_to_nobody(self, percent: float) -> None:
        wave = plan_of(rollout({"percent": percent}), 1000).waves[0]

        assert wave.count_ppm == 1
        assert wave.cap_ppm > 0

    @pytest.mark.parametrize("percent", [0.1, 1 / 3, 29.3, 33.333333, 57, 99.9999])
    def test_holds_integers_only(self, percent: float) -> None:
        """Floats cannot be signed: canonical JSON has none."""
        wave = {
            "percent": percent,
            "earliest": "2026-06-01T12:00:00.75Z",
            "ring": {"ring": "early"},
            "gate": {"ok_min": 3},
        }
        plan = plan_of(rollout(wave, expires="2026-07-01T00:00:00.5+02:00"), 1000)

        assert _numbers(plan.to_custom()) != []
        assert all(isinstance(number, int) for number in _numbers(plan.to_custom()))
        assert plan.waves[0].count_ppm == pytest.approx(percent * 10_000, abs=0.5)
        assert plan.waves[0].earliest == 1780315200
        assert plan.expires == int(datetime(2026, 6, 30, 22, tzinfo=UTC).timestamp())

    @pytest.mark.parametrize(
        "at", ["1970-01-01T00:00:00Z", "1969-12-31T00:00:00Z", "0001-01-01T00:00:00Z"]
    )
    def test_a_time_that_would_mean_never_is_refused(self, at: str) -> None:
        with pytest.raises(ConfigurationInvalid, match="expires"):
            plan_of(rollout({"percent": 100}, expires=at), None)
        with pytest.raises(ConfigurationInvalid, match="earliest"):
            plan_of(rollout({"percent": 100, "earliest": at}), None)

    def test_carries_what_the_rollout_says(self) -> None:
        plan = plan_of(
            rollout({"percent": 100}, start="manual", hardware_classes=["kiosk-x86"]), None
        )

        assert (plan.rollout, plan.manual_start) == ("first", True)
        assert plan.hardware_classes == ("kiosk-x86",)
        assert (plan.expires, plan.waves[0].earliest, plan.waves[0].ok_min) == (0, 0, 0)


def _numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [number for each in value.values() for number in _numbers(each)]
    if isinstance(value, list | tuple):
        return [number for each in value for number in _numbers(each)]
    return [value] if isinstance(value, int | float) else []

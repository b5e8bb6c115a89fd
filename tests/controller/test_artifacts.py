import hashlib
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailboat_controller.artifacts.directory import DISK_MARGIN_BYTES, Artifacts
from mailboat_schemas.documents.release import File, FileRole
from mailboat_schemas.errors import (
    ArtifactMissing,
    DigestMismatch,
    DiskFull,
    MalformedPayload,
    PayloadTooLarge,
)
from small_disk import run_on_small_disk

CONTENT = b"model" * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(tmp_path / "artifacts")


def leftovers(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "artifacts" / "incoming").iterdir())


def test_what_was_put_can_be_read_and_not_written(artifacts: Artifacts, tmp_path: Path) -> None:
    assert artifacts.put(DIGEST, [CONTENT[:7], CONTENT[7:]], len(CONTENT)) is True

    with artifacts.open(DIGEST) as file:
        assert file.read() == CONTENT
    path = tmp_path / "artifacts" / DIGEST[:2] / DIGEST
    assert stat.S_IMODE(path.stat().st_mode) == 0o444
    assert artifacts.length(DIGEST) == len(CONTENT)
    assert leftovers(tmp_path) == []


def test_putting_it_again_reads_nothing_and_rewrites_nothing(artifacts: Artifacts) -> None:
    artifacts.put(DIGEST, [CONTENT], len(CONTENT))
    inode = artifacts.path(DIGEST).stat().st_ino

    def never() -> Iterator[bytes]:
        raise AssertionError
        yield b""

    assert artifacts.put(DIGEST, never(), len(CONTENT)) is False
    assert artifacts.path(DIGEST).stat().st_ino == inode


@pytest.mark.parametrize(
    ("chunks", "length", "error"),
    [
        ([b"x" * len(CONTENT)], len(CONTENT), DigestMismatch),
        ([CONTENT[:-1]], len(CONTENT), MalformedPayload),
        ([CONTENT, b"!"], len(CONTENT), MalformedPayload),
        ([CONTENT], len(CONTENT) - 1, MalformedPayload),
    ],
    ids=["other bytes", "too few", "too many", "announced too few"],
)
def test_bytes_that_are_not_what_they_claim_leave_nothing(
    artifacts: Artifacts,
    tmp_path: Path,
    chunks: list[bytes],
    length: int,
    error: type[Exception],
) -> None:
    with pytest.raises(error):
        artifacts.put(DIGEST, chunks, length)

    assert not artifacts.has(DIGEST)
    assert leftovers(tmp_path) == []


def test_a_file_that_was_cut_short_on_disk_is_put_again(artifacts: Artifacts) -> None:
    artifacts.put(DIGEST, [CONTENT], len(CONTENT))
    path = artifacts.path(DIGEST)
    path.chmod(0o644)
    path.write_bytes(CONTENT[:10])

    assert not artifacts.has(DIGEST, len(CONTENT))
    assert artifacts.put(DIGEST, [CONTENT], len(CONTENT)) is True
    assert path.read_bytes() == CONTENT


def test_two_uploads_of_one_artifact_at_once_both_succeed(
    artifacts: Artifacts, tmp_path: Path
) -> None:
    together = threading.Barrier(4)
    results: list[bool] = []

    def chunks() -> Iterator[bytes]:
        together.wait(5)  # all have looked and found nothing
        yield CONTENT

    def put() -> None:
        results.append(artifacts.put(DIGEST, chunks(), len(CONTENT)))

    threads = [threading.Thread(target=put) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert results == [True] * 4
    assert artifacts.path(DIGEST).read_bytes() == CONTENT
    assert leftovers(tmp_path) == []


def test_an_artifact_over_the_bound_is_refused_before_its_first_byte(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path / "artifacts", bytes_max=len(CONTENT) - 1)

    with pytest.raises(PayloadTooLarge):
        artifacts.put(DIGEST, [CONTENT], len(CONTENT))


def test_an_upload_that_would_leave_no_room_for_the_database_is_refused(tmp_path: Path) -> None:
    room = DISK_MARGIN_BYTES + len(CONTENT)
    exactly = Artifacts(tmp_path / "a", free_bytes=lambda _path: room)
    short = Artifacts(tmp_path / "b", free_bytes=lambda _path: room - 1)

    assert exactly.put(DIGEST, [CONTENT], len(CONTENT))
    with pytest.raises(DiskFull):
        short.put(DIGEST, [CONTENT], len(CONTENT))


def test_a_disk_that_fills_up_meanwhile_is_a_full_disk_and_leaves_nothing(tmp_path: Path) -> None:
    run_on_small_disk(
        tmp_path / "disk",
        1 << 20,
        """
        from mailboat_controller.artifacts.directory import Artifacts
        from mailboat_schemas.errors import DiskFull

        artifacts = Artifacts(DISK, free_bytes=lambda _path: 1 << 40)
        try:
            artifacts.put("ab" * 32, (bytes(65536) for _ in range(64)), 64 * 65536)
        except DiskFull:
            pass
        else:
            raise AssertionError("nobody noticed")
        assert list((DISK / "incoming").iterdir()) == []
        """,
    )


def test_parts_of_a_killed_controller_are_removed_at_start(
    artifacts: Artifacts, tmp_path: Path
) -> None:
    (tmp_path / "artifacts" / "incoming" / "x.part").write_bytes(b"half")

    assert artifacts.remove_parts() == 1
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("digest", ["", "../../etc/passwd", "AB" * 32, "ab" * 31, "zz" * 32])
def test_a_name_that_is_no_digest_never_becomes_a_path(artifacts: Artifacts, digest: str) -> None:
    with pytest.raises(MalformedPayload):
        artifacts.path(digest)


def test_what_is_not_here_is_missing(artifacts: Artifacts, tmp_path: Path) -> None:
    source = tmp_path / "model.onnx"
    source.write_bytes(CONTENT)
    assert artifacts.put_file(source) == DIGEST
    here = File(path="m.onnx", role=FileRole.MODEL, sha256=DIGEST, length=len(CONTENT))
    other = here.model_copy(update={"sha256": "ab" * 32})
    longer = here.model_copy(update={"length": len(CONTENT) + 1})

    assert artifacts.missing([here, other, longer]) == ("ab" * 32, DIGEST)
    with pytest.raises(ArtifactMissing):
        artifacts.open("ab" * 32)

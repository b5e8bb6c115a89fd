import hashlib
import stat
from pathlib import Path

import pytest

from mailboat_controller.artifacts.artifact_store import DISK_MARGIN_BYTES
from mailboat_controller.artifacts.directory import DirectoryStore
from mailboat_schemas.errors import ConfigurationInvalid, DiskFull
from small_disk import run_on_small_disk

CONTENT = b"model" * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def artifacts(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "artifacts")


def leftovers(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "artifacts" / "incoming").iterdir())


def test_an_artifact_cannot_be_written_and_is_not_written_twice(
    artifacts: DirectoryStore, tmp_path: Path
) -> None:
    artifacts.put(DIGEST, [CONTENT], len(CONTENT))
    path = tmp_path / "artifacts" / DIGEST[:2] / DIGEST
    assert stat.S_IMODE(path.stat().st_mode) == 0o444
    inode = path.stat().st_ino

    artifacts.put(DIGEST, [CONTENT], len(CONTENT))

    assert path.stat().st_ino == inode
    assert leftovers(tmp_path) == []


def test_bytes_that_are_not_what_they_claim_leave_no_part(
    artifacts: DirectoryStore, tmp_path: Path
) -> None:
    with artifacts.begin(DIGEST, len(CONTENT)) as upload:
        upload.write(CONTENT)
        assert len(leftovers(tmp_path)) == 1

    assert leftovers(tmp_path) == []


def test_a_file_that_was_cut_short_on_disk_is_put_again(artifacts: DirectoryStore) -> None:
    artifacts.put(DIGEST, [CONTENT], len(CONTENT))
    path = artifacts.path(DIGEST)
    path.chmod(0o644)
    path.write_bytes(CONTENT[:10])

    assert not artifacts.has(DIGEST, len(CONTENT))
    assert artifacts.put(DIGEST, [CONTENT], len(CONTENT)) is True
    assert path.read_bytes() == CONTENT


def test_an_upload_that_would_leave_no_room_for_the_database_is_refused(tmp_path: Path) -> None:
    room = DISK_MARGIN_BYTES + len(CONTENT)
    exactly = DirectoryStore(tmp_path / "a", free_bytes=lambda _path: room)
    short = DirectoryStore(tmp_path / "b", free_bytes=lambda _path: room - 1)

    assert exactly.put(DIGEST, [CONTENT], len(CONTENT))
    with pytest.raises(DiskFull):
        short.put(DIGEST, [CONTENT], len(CONTENT))


def test_a_disk_that_fills_up_meanwhile_is_a_full_disk_and_leaves_nothing(tmp_path: Path) -> None:
    run_on_small_disk(
        tmp_path / "disk",
        1 << 20,
        """
        from mailboat_controller.artifacts.directory import DirectoryStore
        from mailboat_schemas.errors import DiskFull

        artifacts = DirectoryStore(DISK, free_bytes=lambda _path: 1 << 40)
        try:
            artifacts.put("ab" * 32, (bytes(65536) for _ in range(64)), 64 * 65536)
        except DiskFull:
            pass
        else:
            raise AssertionError("nobody noticed")
        assert list((DISK / "incoming").iterdir()) == []
        """,
    )


def test_a_directory_that_is_a_file_says_so_at_the_start(tmp_path: Path) -> None:
    artifacts = DirectoryStore(tmp_path / "artifacts")
    (tmp_path / "artifacts" / "incoming").rmdir()
    (tmp_path / "artifacts" / "incoming").write_text("")

    with pytest.raises(ConfigurationInvalid, match="Nothing can be written"):
        artifacts.check()

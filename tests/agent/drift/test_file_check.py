"""One stored file read again: found damaged, set aside, repaired from what the device has."""

import errno
import hashlib
import os
import random
import resource
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kill_points import recorded_calls
from mailboat_agent.artifacts.release_store import ReleaseStore
from mailboat_agent.artifacts.set_aside import DAMAGED_FILES_MAX
from mailboat_agent.drift.file_check import FileCheck, StoredFile
from mailboat_agent.sealed_memory import verified_memory

CONTENT = random.Random(1).randbytes(300_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> ReleaseStore:
    store = ReleaseStore(tmp_path)
    assert store.put(CONTENT) == DIGEST
    return store


def nothing_in_memory(_model: str, _sha256: str) -> None:
    return None


def checker(
    store: ReleaseStore,
    memory: Callable[[str, str], int | None] = nothing_in_memory,
    bytes_per_second: int = 1 << 30,
) -> FileCheck:
    return FileCheck(store, memory=memory, bytes_per_second=bytes_per_second)


def stored(content: bytes | None = None) -> StoredFile:
    return StoredFile(
        digest=DIGEST,
        length=len(CONTENT),
        path="m.onnx",
        model="vad",
        version="1.0.0",
        release="d" * 64,
        content=content,
    )


def flip_a_bit(path: Path) -> None:
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(123_456)
        byte = file.read(1)[0]
        file.seek(123_456)
        file.write(bytes([byte ^ 1]))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "flipped": flip_a_bit,
    "truncated": lambda path: (path.chmod(0o600), os.truncate(path, 1000)),
    "emptied": lambda path: (path.chmod(0o600), os.truncate(path, 0)),
    "zeroed": lambda path: (path.chmod(0o600), path.write_bytes(bytes(len(CONTENT)))),
    "a directory": lambda path: (path.unlink(), path.mkdir(), (path / "x").touch()),
    "a named pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "a link": lambda path: (path.unlink(), path.symlink_to("/etc/hostname")),
}


def test_a_whole_file_is_left_alone(store: ReleaseStore) -> None:
    assert checker(store).check(stored()) is None
    assert store.has(DIGEST)


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_set_aside_and_never_deleted(
    store: ReleaseStore, damage: Callable[[Path], object]
) -> None:
    damage(store.path(DIGEST))
    store.path(DIGEST)

    found = checker(store).check(stored())

    if not os.path.lexists(store.path(DIGEST)) and found is None:
        pytest.fail("it vanished without a word")
    assert found is not None
    assert found.repaired_from == ""
    assert not store.has(DIGEST)
    assert store.set_aside.digests() == {DIGEST}


def test_a_file_that_went_away_meanwhile_is_no_damage(store: ReleaseStore) -> None:
    store.path(DIGEST).unlink()

    assert checker(store).check(stored()) is None


def test_it_is_repaired_from_the_memory_that_serves(store: ReleaseStore) -> None:
    flip_a_bit(store.path(DIGEST))
    source = os.memfd_create("model")
    os.write(source, CONTENT)
    memory = verified_memory(source, DIGEST)
    os.close(source)

    found = checker(store, lambda *_: os.dup(memory)).check(stored())

    assert found is not None
    assert found.repaired_from == "memory"
    assert store.read_verified(DIGEST, 1 << 20) == CONTENT
    assert store.path(DIGEST).stat().st_mode & 0o777 == 0o444
    assert list((store.data_dir / "staging").iterdir()) == []
    os.close(memory)


def test_what_is_damaged_stands_in_its_place_until_a_copy_is_durable(
    store: ReleaseStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut in the middle must not find a device without the file: two renames remain."""
    flip_a_bit(store.path(DIGEST))
    source = os.memfd_create("model")
    os.write(source, CONTENT)
    done = recorded_calls(monkeypatch, tmp_path)

    assert checker(store, lambda *_: os.dup(source)).check(stored()) is not None

    os.close(source)
    assert done[:4] == [
        f"fsync staging/{DIGEST}.copy",
        f"rename store/{DIGEST} -> damaged/{DIGEST}",
        "fsync store",
        f"rename staging/{DIGEST}.copy -> store/{DIGEST}",
    ]


def test_memory_that_says_something_else_repairs_nothing(store: ReleaseStore) -> None:
    flip_a_bit(store.path(DIGEST))
    other = os.memfd_create("other")
    os.write(other, b"something else")

    found = checker(store, lambda *_: os.dup(other)).check(stored())

    assert found is not None
    assert found.repaired_from == ""
    assert not store.has(DIGEST)
    os.close(other)


def test_a_document_is_repaired_from_what_was_read_of_it(store: ReleaseStore) -> None:
    flip_a_bit(store.path(DIGEST))

    found = checker(store).check(stored(CONTENT))

    assert found is not None
    assert found.repaired_from == "manifest"
    assert store.read_verified(DIGEST, 1 << 20) == CONTENT


def test_a_download_that_was_complete_repairs_it(store: ReleaseStore) -> None:
    flip_a_bit(store.path(DIGEST))
    store.staging_path(DIGEST).write_bytes(CONTENT)

    found = checker(store).check(stored())

    assert found is not None
    assert found.repaired_from == "staging"
    assert store.read_verified(DIGEST, 1 << 20) == CONTENT


def test_half_a_download_repairs_nothing_and_stays(store: ReleaseStore) -> None:
    flip_a_bit(store.path(DIGEST))
    store.staging_path(DIGEST).write_bytes(CONTENT[:1000])

    found = checker(store).check(stored())

    assert found is not None
    assert found.repaired_from == ""
    assert store.staged_bytes(DIGEST) == 1000


def test_it_is_read_no_faster_than_allowed(store: ReleaseStore) -> None:
    began = time.monotonic()

    assert checker(store, bytes_per_second=1_000_000).check(stored()) is None

    assert time.monotonic() - began >= 0.25  # 300 kB at 1 MB/s, but for the last wait


def test_a_check_that_is_stopped_judges_nothing(store: ReleaseStore) -> None:
    flip_a_bit(store.path(DIGEST))
    check = checker(store)
    check.stop()

    assert check.check(stored()) is None
    assert store.has(DIGEST)


def test_the_same_file_damaged_again_and_as_a_directory_is_set_aside_each_time(
    store: ReleaseStore,
) -> None:
    for damage in ("a directory", "flipped", "a directory", "zeroed"):
        DAMAGES[damage](store.path(DIGEST))
        assert checker(store).check(stored()) is not None, damage
        assert not store.has(DIGEST)
        store.put(CONTENT)

    assert store.set_aside.digests() == {DIGEST}
    store.set_aside.note_repaired(DIGEST)
    assert store.set_aside.digests() == frozenset()


def test_evidence_is_bounded_whatever_it_is(store: ReleaseStore) -> None:
    digests = [store.put(b"document %d" % number) for number in range(DAMAGED_FILES_MAX + 3)]
    for digest in digests:
        DAMAGES["a directory"](store.path(digest))
        file = stored()
        object.__setattr__(file, "digest", digest)
        checker(store).check(file)

    assert len(list(store.set_aside.directory.iterdir())) == DAMAGED_FILES_MAX


def test_what_cannot_even_be_moved_aside_is_told_apart(
    store: ReleaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_path: Path, _target: Path) -> Path:
        raise OSError(errno.EROFS, "Read-only file system")

    flip_a_bit(store.path(DIGEST))
    monkeypatch.setattr(Path, "replace", refused)

    damage = checker(store).check(stored())

    assert damage is not None
    assert damage.in_place
    assert damage.repaired_from == ""


def test_a_shortage_of_descriptors_is_no_damage(store: ReleaseStore) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    os.close(next_free := os.dup(0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (next_free, limits[1]))
    try:
        assert checker(store).check(stored()) is None
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert store.has(DIGEST)

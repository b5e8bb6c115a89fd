"""The store never holds, and never hands out, bytes that do not match their name."""

import errno
import hashlib
import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from kill_points import killed_at_each_point, recorded_calls, refused_at_each_point
from mailboat_agent.artifacts import release_store
from mailboat_agent.artifacts.part_file import Hashed, PartFile
from mailboat_agent.artifacts.release_store import ReleaseStore
from mailboat_agent.artifacts.set_aside import DAMAGED_FILES_MAX
from mailboat_agent.atomic_file import DiskFailing
from mailboat_agent.ballast import BALLAST_BYTES
from mailboat_schemas.errors import (
    ArtifactMissing,
    DigestMismatch,
    DiskFull,
    DownloadInterrupted,
    PayloadTooLarge,
)
from small_disk import run_on_small_disk

CONTENT = b"weights" * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def make_store(directory: Path) -> None:
    ReleaseStore(directory)


def stage(directory: Path) -> None:
    ReleaseStore(directory).staging_path(DIGEST).write_bytes(CONTENT)


def admit(directory: Path) -> None:
    ReleaseStore(directory).admit(DIGEST, len(CONTENT))


def everything_in_the_store_matches_its_name(directory: Path) -> bool:
    return all(sha256(path.read_bytes()) == path.name for path in (directory / "store").iterdir())


def test_a_staged_file_with_the_right_bytes_moves_into_the_store_read_only(tmp_path: Path) -> None:
    store = ReleaseStore(tmp_path)
    stage(tmp_path)
    assert store.staged_bytes(DIGEST) == 7000

    store.admit(DIGEST, 7000)

    assert store.has(DIGEST)
    assert store.digests() == {DIGEST}
    assert store.path(DIGEST).stat().st_mode & 0o777 == 0o444
    assert store.staged_bytes(DIGEST) == 0
    assert store.read_verified(DIGEST, 7000) == CONTENT


def test_wrong_bytes_are_refused_and_deleted(tmp_path: Path) -> None:
    store = ReleaseStore(tmp_path)
    store.staging_path(DIGEST).write_bytes(b"W" + CONTENT[1:])

    with pytest.raises(DigestMismatch):
        store.admit(DIGEST, len(CONTENT))

    assert not store.has(DIGEST)
    assert store.staged_bytes(DIGEST) == 0


def test_bytes_beyond_the_length_are_refused_and_deleted(tmp_path: Path) -> None:
    store = ReleaseStore(tmp_path)
    store.staging_path(DIGEST).write_bytes(CONTENT + b"x")

    with pytest.raises(DigestMismatch):
        store.admit(DIGEST, len(CONTENT))

    assert store.staged_bytes(DIGEST) == 0


def test_a_part_that_is_too_short_stays_to_be_resumed(tmp_path: Path) -> None:
    store = ReleaseStore(tmp_path)
    store.staging_path(DIGEST).write_bytes(CONTENT[:100])

    with pytest.raises(DownloadInterrupted):
        store.admit(DIGEST, len(CONTENT))

    assert store.staged_bytes(DIGEST) == 100


def test_admitting_what_is_nowhere_is_a_missing_artifact(tmp_path: Path) -> None:
    with pytest.raises(ArtifactMissing):
        ReleaseStore(tmp_path).admit(DIGEST, len(CONTENT))


def test_admitting_may_die_anywhere_and_be_repeated(tmp_path: Path) -> None:
    for directory in killed_at_each_point(tmp_path, stage, admit):
        assert everything_in_the_store_matches_its_name(directory)

        admit(directory)

        assert ReleaseStore(directory).read_verified(DIGEST, len(CONTENT)) == CONTENT


def test_content_is_durable_before_its_name_is_in_the_store_and_the_name_before_the_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage(tmp_path)
    store = ReleaseStore(tmp_path)
    done = recorded_calls(monkeypatch, tmp_path)

    store.admit(DIGEST, len(CONTENT))

    part = f"staging/{DIGEST}.part"
    assert done == [
        f"fsync {part}",
        f"rename {part} -> store/{DIGEST}",
        "fsync store",
        "fsync staging",
    ]


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_a_disk_that_refuses_while_admitting_never_leaves_a_wrong_name(
    tmp_path: Path, error: int
) -> None:
    for directory in refused_at_each_point(
        tmp_path, stage, admit, error=error, expected=(DiskFull, DiskFailing)
    ):
        assert everything_in_the_store_matches_its_name(directory)


def test_after_a_failed_fsync_the_part_is_not_trusted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage(tmp_path)
    store = ReleaseStore(tmp_path)

    def fsync(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(DiskFailing):
        store.admit(DIGEST, len(CONTENT))

    assert store.staged_bytes(DIGEST) == 0


def hashed_while_staged(store: ReleaseStore, content: bytes) -> Hashed:
    part = PartFile(store.staging_path(DIGEST), len(content))
    part.append(content)
    hashed = part.sync()
    part.close()
    return hashed


def test_what_was_hashed_while_it_came_is_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ReleaseStore(tmp_path)
    hashed = hashed_while_staged(store, CONTENT)
    monkeypatch.setattr(release_store, "_hash_regular_file", lambda _fd: pytest.fail("read again"))

    store.admit(DIGEST, len(CONTENT), hashed)

    assert store.has(DIGEST)


def test_other_bytes_that_were_hashed_while_they_came_are_refused(tmp_path: Path) -> None:
    store = ReleaseStore(tmp_path)
    hashed = hashed_while_staged(store, b"?" + CONTENT[1:])

    with pytest.raises(DigestMismatch):
        store.admit(DIGEST, len(CONTENT), hashed)

    assert not store.has(DIGEST)
    assert store.staged_bytes(DIGEST) == 0


def swapped(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"?" + CONTENT[1:])
    other.replace(path)


def touched(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"?")


@pytest.mark.parametrize("tamper", [swapped, touched])
def test_a_file_that_changed_after_it_was_hashed_is_hashed_again(
    tmp_path: Path, tamper: Callable[[Path], None]
) -> None:
    store = ReleaseStore(tmp_path)
    hashed = hashed_while_staged(store, CONTENT)
    tamper(store.staging_path(DIGEST))

    with pytest.raises(DigestMismatch):
        store.admit(DIGEST, len(CONTENT), hashed)

    assert not store.has(DIGEST)


@pytest.mark.slow
def test_small_documents_go_through_the_same_gate(tmp_path: Path) -> None:
    for directory in killed_at_each_point(
        tmp_path, make_store, lambda place: ReleaseStore(place).put(CONTENT)
    ):
        assert everything_in_the_store_matches_its_name(directory)
        store = ReleaseStore(directory)
        assert store.put(CONTENT) == DIGEST
        assert store.put(CONTENT) == DIGEST
        assert store.read_verified(DIGEST, len(CONTENT)) == CONTENT


def test_putting_a_document_again_repairs_a_damaged_one(tmp_path: Path) -> None:
    store = ReleaseStore(tmp_path)
    store.put(CONTENT)
    flip_a_bit(store.path(DIGEST))

    store.put(CONTENT)

    assert store.read_verified(DIGEST, len(CONTENT)) == CONTENT


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o600)
    path.write_bytes(content)


def test_a_damaged_file_is_set_aside_and_missing_from_then_on(tmp_path: Path) -> None:
    store = ReleaseStore(tmp_path)
    store.put(CONTENT)
    flip_a_bit(store.path(DIGEST))

    with pytest.raises(DigestMismatch):
        store.open_verified(DIGEST)

    assert not store.has(DIGEST)
    assert (tmp_path / "damaged" / DIGEST).exists()
    with pytest.raises(ArtifactMissing):
        store.open_verified(DIGEST)


def test_a_shortage_of_descriptors_is_not_taken_for_damage(tmp_path: Path) -> None:
    store = ReleaseStore(tmp_path)
    store.put(CONTENT)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    os.close(next_free := os.dup(0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (next_free, limits[1]))
    try:
        with pytest.raises(DiskFailing):
            store.open_verified(DIGEST)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    assert store.set_aside.digests() == frozenset()
    assert store.read_verified(DIGEST, len(CONTENT)) == CONTENT


def test_what_replaced_a_damaged_file_while_that_was_read_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ReleaseStore(tmp_path)
    store.put(CONTENT)
    flip_a_bit(store.path(DIGEST))
    read = os.read

    def repaired_meanwhile(descriptor: int, count: int) -> bytes:
        """By somebody who met the damage first."""
        monkeypatch.undo()
        with pytest.raises(DigestMismatch):
            store.open_verified(DIGEST)
        store.put(CONTENT)
        return read(descriptor, count)

    monkeypatch.setattr(os, "read", repaired_meanwhile)
    with pytest.raises(DigestMismatch):
        store.open_verified(DIGEST)

    assert store.read_verified(DIGEST, len(CONTENT)) == CONTENT
    assert store.set_aside.digests() == {DIGEST}


def test_the_note_of_a_loss_outlives_whoever_meets_the_same_damage_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ReleaseStore(tmp_path)
    store.put(CONTENT)
    flip_a_bit(store.path(DIGEST))
    read = os.read

    def met_meanwhile(descriptor: int, count: int) -> bytes:
        monkeypatch.undo()
        with pytest.raises(DigestMismatch):
            store.open_verified(DIGEST)
        return read(descriptor, count)

    monkeypatch.setattr(os, "read", met_meanwhile)
    with pytest.raises(DigestMismatch):
        store.open_verified(DIGEST)

    assert store.set_aside.digests() == {DIGEST}


def test_only_the_last_damaged_files_are_kept(tmp_path: Path) -> None:
    store = ReleaseStore(tmp_path)
    digests = [store.put(b"document %d" % number) for number in range(DAMAGED_FILES_MAX + 2)]

    for digest in digests:
        flip_a_bit(store.path(digest))
        with pytest.raises(DigestMismatch):
            store.open_verified(digest)

    kept = {path.name for path in (tmp_path / "damaged").iterdir()}
    assert kept == set(digests[-DAMAGED_FILES_MAX:])


def test_a_link_or_a_directory_in_place_of_a_file_is_not_followed(tmp_path: Path) -> None:
    store = ReleaseStore(tmp_path)
    (tmp_path / "real").write_bytes(CONTENT)
    store.path(DIGEST).symlink_to(tmp_path / "real")
    with pytest.raises(DigestMismatch):
        store.open_verified(DIGEST)

    store.path(DIGEST).mkdir()
    with pytest.raises(DigestMismatch):
        store.open_verified(DIGEST)


def test_the_descriptor_stands_at_the_start_and_outlives_garbage_collection(tmp_path: Path) -> None:
    store = ReleaseStore(tmp_path)
    store.put(CONTENT)

    descriptor = store.open_verified(DIGEST)
    store.collect_garbage(frozenset())

    with os.fdopen(descriptor, "rb") as file:
        assert file.read() == CONTENT


def test_reading_is_bounded(tmp_path: Path) -> None:
    store = ReleaseStore(tmp_path)
    store.put(CONTENT)

    with pytest.raises(PayloadTooLarge):
        store.read_verified(DIGEST, len(CONTENT) - 1)


@pytest.mark.parametrize("digest", ["", "../../etc/passwd", "A" * 64, DIGEST + "\n"])
def test_a_name_that_is_no_digest_never_becomes_a_path(tmp_path: Path, digest: str) -> None:
    with pytest.raises(ValueError, match="not a sha256"):
        ReleaseStore(tmp_path).path(digest)


def test_garbage_is_what_nobody_names(tmp_path: Path) -> None:
    store = ReleaseStore(tmp_path)
    kept, dropped = store.put(b"kept"), store.put(b"dropped")
    store.staging_path(DIGEST).write_bytes(CONTENT)
    stale = store.staging_path(sha256(b"stale"))
    stale.write_bytes(b"12345")

    freed = store.collect_garbage({kept, DIGEST})

    assert freed == len(b"dropped") + 5
    assert store.digests() == {kept}
    assert dropped not in store.digests()
    assert store.staged_bytes(DIGEST) == len(CONTENT)
    assert not stale.exists()


def test_a_copy_that_repairs_a_lost_file_is_no_garbage_until_the_file_is_there(
    tmp_path: Path,
) -> None:
    store = ReleaseStore(tmp_path)
    copy = tmp_path / "staging" / f"{DIGEST}.copy"
    copy.write_bytes(CONTENT[:100])

    store.collect_garbage({DIGEST})
    assert copy.exists()

    store.put(CONTENT)
    store.collect_garbage({DIGEST})
    assert not copy.exists()


def test_evidence_of_damage_gives_way_to_what_replaces_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = os.statvfs(tmp_path)
    monkeypatch.setattr(os, "statvfs", lambda _path: status)  # others use this disk as well
    store = ReleaseStore(tmp_path)
    store.put(CONTENT)
    flip_a_bit(store.path(DIGEST))
    before = store.free_bytes()
    with pytest.raises(DigestMismatch):
        store.open_verified(DIGEST)
    evidence = tmp_path / "damaged" / DIGEST

    assert store.free_bytes() - before == len(CONTENT)
    store.make_room(len(CONTENT))
    assert evidence.stat().st_size == len(CONTENT)  # there is room beside it

    store.make_room(store.free_bytes())
    assert evidence.stat().st_size == 0
    assert store.set_aside.digests() == {DIGEST}  # it is still lost


def test_free_room_counts_the_ballast(tmp_path: Path) -> None:
    store = ReleaseStore(tmp_path)
    free_bytes = store.free_bytes()
    status = os.statvfs(tmp_path)

    assert (tmp_path / "ballast").stat().st_size == BALLAST_BYTES
    # Others write to this disk meanwhile.
    expected = status.f_bavail * status.f_frsize + BALLAST_BYTES
    assert abs(free_bytes - expected) < 100 << 20

    store.give_up_ballast()
    assert not (tmp_path / "ballast").exists()
    store.restore_ballast()
    assert (tmp_path / "ballast").exists()


def test_a_full_disk_stops_neither_the_start_nor_what_is_in_the_store(tmp_path: Path) -> None:
    run_on_small_disk(
        tmp_path / "disk",
        2 << 20,
        """
        from mailboat_agent.artifacts.release_store import ReleaseStore
        from mailboat_schemas.errors import DiskFull

        digest = ReleaseStore(DISK).put(b"kept")
        fill()
        store = ReleaseStore(DISK)
        assert store.read_verified(digest, 100) == b"kept"
        assert store.free_bytes() == 1 << 20, store.free_bytes()
        try:
            store.put(b"new" * 5000)
        except DiskFull:
            pass
        else:
            raise AssertionError("no DiskFull")
        assert list((DISK / "staging").iterdir()) == []
        store.give_up_ballast()
        store.put(b"new" * 5000)

        fill()
        (DISK / "ballast").unlink(missing_ok=True)
        ReleaseStore(DISK / "without-room-for-directories")
        """,
    )

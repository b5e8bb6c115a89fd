"""Bytes that were verified stay what they are, whoever holds the descriptor."""

import hashlib
import mmap
import os
import threading
from pathlib import Path

import pytest

from mailboat_agent import sealed_memory
from mailboat_agent.sealed_memory import in_memory, is_sealed, verified_memory
from mailboat_schemas.errors import DigestMismatch

CONTENT = os.urandom(3 << 20)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    path = tmp_path / DIGEST
    path.write_bytes(CONTENT)
    return path


def open_read_only(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def read_all(descriptor: int) -> bytes:
    return os.pread(descriptor, 1 << 24, 0)


def test_what_is_handed_out_is_what_was_hashed(stored: Path) -> None:
    file = open_read_only(stored)
    memory = verified_memory(file, DIGEST)

    assert read_all(memory) == CONTENT
    assert os.lseek(memory, 0, os.SEEK_CUR) == 0
    assert is_sealed(memory)
    assert not is_sealed(file)
    os.close(file)
    os.close(memory)


def test_chunks_are_as_good_as_a_file() -> None:
    memory = verified_memory(
        (CONTENT[at : at + 1000] for at in range(0, len(CONTENT), 1000)), DIGEST
    )

    assert read_all(memory) == CONTENT
    os.close(memory)


def test_other_bytes_are_not_handed_out_and_nothing_stays_open(stored: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(DigestMismatch):
        verified_memory([CONTENT, b"x"], DIGEST)

    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_nobody_can_write_grow_shrink_or_unseal_it() -> None:
    memory = verified_memory([CONTENT], DIGEST)

    with pytest.raises(PermissionError):
        os.pwrite(memory, b"evil", 0)
    with pytest.raises(PermissionError):
        os.ftruncate(memory, 1)
    with pytest.raises(PermissionError):
        os.ftruncate(memory, 1 << 24)
    with pytest.raises(PermissionError):
        mmap.mmap(memory, 4096, prot=mmap.PROT_WRITE | mmap.PROT_READ)
    again = os.open(f"/proc/self/fd/{memory}", os.O_RDWR)
    with pytest.raises(PermissionError):
        os.pwrite(again, b"evil", 0)

    assert read_all(memory) == CONTENT
    os.close(again)
    os.close(memory)


def test_a_file_swapped_or_written_a_thousand_times_is_never_loaded_altered(stored: Path) -> None:
    """Whatever a racing writer does, what comes out has the digest, or nothing comes out."""
    stop = threading.Event()

    def flip() -> None:
        descriptor = os.open(stored, os.O_WRONLY)
        while not stop.is_set():
            os.pwrite(descriptor, b"\0", 5)
            os.pwrite(descriptor, CONTENT[5:6], 5)
        os.close(descriptor)

    small = CONTENT[: 64 << 10]
    stored.write_bytes(small)
    digest = hashlib.sha256(small).hexdigest()
    writer = threading.Thread(target=flip)
    writer.start()
    came_out = refused = 0
    try:
        for _ in range(1000):
            file = open_read_only(stored)
            try:
                memory = verified_memory(file, digest)
            except DigestMismatch:
                refused += 1
            else:
                came_out += 1
                assert hashlib.sha256(read_all(memory)).hexdigest() == digest
                os.close(memory)
            finally:
                os.close(file)
    finally:
        stop.set()
        writer.join()

    assert came_out + refused == 1000


def test_a_file_over_the_bound_stays_a_file(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealed_memory, "IN_MEMORY_BYTES_MAX", len(CONTENT) - 1)
    kept = in_memory(open_read_only(stored), DIGEST)
    monkeypatch.setattr(sealed_memory, "IN_MEMORY_BYTES_MAX", len(CONTENT))
    moved = in_memory(open_read_only(stored), DIGEST)

    assert (is_sealed(kept), is_sealed(moved)) == (False, True)
    os.close(kept)
    os.close(moved)


def test_without_memory_the_file_itself_is_handed_out(
    stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: object) -> int:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(os, "memfd_create", none_left)
    descriptor = in_memory(open_read_only(stored), DIGEST)

    assert read_all(descriptor) == CONTENT
    os.close(descriptor)


def test_a_directory_is_no_source(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(OSError, match="not a regular file"):
        verified_memory(descriptor, DIGEST)
    os.close(descriptor)

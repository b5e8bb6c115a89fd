"""Verified bytes that nothing can change any more: a sealed memfd.

What a file on a disk held when it was hashed says nothing about what it holds when it is loaded: a
local attacker writes in between, or the page is read again from a bad sector. So the bytes are
copied into anonymous memory, hashed while they are copied, and sealed; the descriptor can be handed
to another process, and neither side can write to it.

The memory is charged to whoever made it, until the last descriptor is closed. The page cache of the
file is given back, so a model is in memory once for this, and once more inside the runtime.
"""

import fcntl
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator

from mailboat_schemas.errors import DigestMismatch

COPY_BYTES = 1 << 20
# A quarter of a gigabyte beside what the runtime makes of it; more is too much for a small device.
IN_MEMORY_BYTES_MAX = 256 << 20
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_MFD_NOEXEC_SEAL = 0x0008  # Linux 6.3: nor can it ever be executed. Source: memfd_create(2)


def verified_memory(source: int | Iterable[bytes], digest: str) -> int:
    """A sealed memory descriptor at offset 0 whose bytes have the sha256 ``digest`` (hex).

    ``source`` is a descriptor, read from its beginning and left to its owner, or chunks in order.
    The caller closes what is returned.

    Raises:
        DigestMismatch: other bytes; nothing is handed out.
        OSError: they cannot be read, or there is no memory.
    """
    memory = _new_memory()
    try:
        _copy(_chunks(source) if isinstance(source, int) else source, memory, digest)
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, _SEALS)
        os.lseek(memory, 0, os.SEEK_SET)
    except BaseException:
        os.close(memory)
        raise
    return memory


def in_memory(descriptor: int, digest: str) -> int:
    """Move a verified file into sealed memory. Takes the descriptor, gives back one to close.

    A file over `IN_MEMORY_BYTES_MAX`, and any when there is no memory for it, comes back as it is:
    whoever loads such a one hashes the bytes it has read (the worker does).

    Raises:
        DigestMismatch: it has changed since it was verified.
    """
    try:
        if os.fstat(descriptor).st_size > IN_MEMORY_BYTES_MAX:
            return descriptor
        memory = verified_memory(descriptor, digest)
    except OSError:
        return descriptor
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return memory


def is_sealed(descriptor: int) -> bool:
    """Whether nobody can change what is behind this descriptor, however it was made."""
    try:
        return fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & _SEALS == _SEALS
    except OSError:
        return False  # not memory: a file


def _new_memory() -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create("mailboat-verified", flags | _MFD_NOEXEC_SEAL)
    except OSError:  # an older kernel refuses the flag
        return os.memfd_create("mailboat-verified", flags)


def _copy(chunks: Iterable[bytes], memory: int, expected: str) -> None:
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
        rest = memoryview(chunk)
        while rest:
            rest = rest[os.write(memory, rest) :]
    if digest.hexdigest() != expected:
        raise DigestMismatch(f"File {expected[:16]}", expected, digest.hexdigest())


def _chunks(descriptor: int) -> Iterator[bytes]:
    """Everything behind a descriptor, by position: its owner's offset does not move."""
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise OSError("not a regular file")
    offset = 0
    while chunk := os.pread(descriptor, COPY_BYTES, offset):
        offset += len(chunk)
        yield chunk
    # It is in the sealed memory now; kept twice it would cost a small device its page cache.
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

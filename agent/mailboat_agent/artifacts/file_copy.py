"""A whole and durable copy of what is behind a descriptor."""

import hashlib
import os
from pathlib import Path

from mailboat_agent.atomic_file import write_all

COPY_BYTES = 1 << 20


def copy_durably(source: int, target: Path) -> str:
    """Write ``target``, read-only and synced, from a descriptor's beginning; its sha256.

    The descriptor's own offset does not move. The digest is of what the new file gives back, not
    of what was written into it. Raises OSError.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(target, flags, 0o600)
    try:
        offset = 0
        while chunk := os.pread(source, COPY_BYTES, offset):
            write_all(descriptor, chunk)
            offset += len(chunk)
        os.fsync(descriptor)
        hashed, offset = hashlib.sha256(), 0
        while chunk := os.pread(descriptor, COPY_BYTES, offset):
            hashed.update(chunk)
            offset += len(chunk)
        os.fchmod(descriptor, 0o444)
    finally:
        os.close(descriptor)
    return hashed.hexdigest()

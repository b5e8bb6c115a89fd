"""A mebibyte held back for the day the disk is full, so that the state can still be written.

Everything here is best effort: a device without ballast works, it only has no reserve.
"""

import hashlib
from contextlib import suppress
from pathlib import Path

from mailboat_agent.atomic_file import DiskFailing, replace_durably
from mailboat_schemas.errors import DiskFull

BALLAST_BYTES = 1 << 20
_NAME = "ballast"


def ballast_bytes(data_dir: Path) -> int:
    """How much giving it up would free."""
    try:
        return (data_dir / _NAME).stat().st_size
    except OSError:
        return 0


def give_up_ballast(data_dir: Path) -> None:
    with suppress(OSError):
        (data_dir / _NAME).unlink()


def restore_ballast(data_dir: Path) -> None:
    """Lay it down (again) if it is missing and the disk has room for it."""
    if ballast_bytes(data_dir) >= BALLAST_BYTES:
        return
    # Bytes that do not compress: on some file systems zeros take no room and so hold none back.
    content = hashlib.shake_256(b"ballast").digest(BALLAST_BYTES)
    with suppress(DiskFull, DiskFailing):
        replace_durably(data_dir / _NAME, content)

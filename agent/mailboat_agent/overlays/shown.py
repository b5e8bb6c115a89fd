"""The config in force as the application gets it: over the front, and as a file."""

import logging
import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mailboat_schemas.overlays import EffectiveConfig

FILE_MODE = 0o644  # it is no secret, and its reader is another user
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Shown:
    """``content`` is the values as canonical JSON, ``titles`` says which documents made them."""

    content: bytes
    digest: str
    titles: str

    @classmethod
    def of(cls, config: EffectiveConfig) -> "Shown":
        return cls(config.content, config.digest, config.titles)


def write_file(path: Path, content: bytes, *, again: bool = False) -> bool:
    """Replace the file whole, unless it is that already; whether it is now.

    It can be made again at every start, so it is not synced. Its directory may be that of the
    application, whose links and pipes are neither followed nor waited for.

    Args:
        again: it failed before, which was told then.
    """
    new = path.with_name(f".{path.name}.new")
    try:
        with suppress(OSError):
            if _is_already(path, content):
                return True
        new.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(new, flags, FILE_MODE), "wb") as file:  # noqa: PTH123 - a descriptor
            os.fchmod(file.fileno(), FILE_MODE)  # the umask may have taken bits
            file.write(content)
        new.replace(path)
    except OSError as error:
        with suppress(OSError):
            new.unlink()
        level = logging.DEBUG if again else logging.WARNING
        _log.log(level, "The config could not be written to %s: %s", path, error.strerror)
        return False
    return True


def _is_already(path: Path, content: bytes) -> bool:
    """Raises OSError."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags)
    try:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode) or about.st_size != len(content):
            return False
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(len(content) + 1) == content
    finally:
        os.close(descriptor)

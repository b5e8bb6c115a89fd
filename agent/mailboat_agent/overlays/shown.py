"""The config in force as the application gets it: over the front, and as a file."""

import logging
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


def write_file(path: Path, content: bytes) -> bool:
    """Replace the file whole, unless it is that already; whether it is now.

    It can be made again at every start, so it is not synced.
    """
    new = path.with_name(f".{path.name}.new")
    try:
        with suppress(OSError):
            if path.read_bytes() == content:
                return True
        new.write_bytes(content)
        new.chmod(FILE_MODE)
        new.replace(path)
    except OSError as error:
        with suppress(OSError):
            new.unlink()
        _log.warning("The config could not be written to %s: %s", path, error.strerror)
        return False
    return True

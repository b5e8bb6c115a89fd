"""Content keys as this device keeps them: wrapped to its own key, in files that open nothing alone.

``content-keys/<id>`` is what the controller answered. A key that does not open any more is removed,
and is fetched again like a file that is damaged.
"""

import logging
import re
from collections.abc import Set as AbstractSet
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from mailboat_agent.atomic_file import disk_errors, fsync_directory, replace_durably
from mailboat_schemas.content_key import CONTENT_KEY_ID_PATTERN, WrappedContentKey

FILE_BYTES_MAX = 8 * 1024
_ID = re.compile(CONTENT_KEY_ID_PATTERN)
_log = logging.getLogger(__name__)


class WrappedKeys:
    def __init__(self, data_dir: Path) -> None:
        """Makes nothing: a device without encrypted releases has no such directory."""
        self._directory = data_dir / "content-keys"

    def ids(self) -> frozenset[str]:
        try:
            names = [path.name for path in self._directory.iterdir()]
        except OSError:
            return frozenset()
        return frozenset(name for name in names if _ID.fullmatch(name))

    def read(self, key_id: str) -> WrappedContentKey | None:
        """None when it is not there; a file that cannot be read as one is removed first."""
        path = self._path(key_id)
        try:
            with path.open("rb") as file:
                found = WrappedContentKey.model_validate_json(file.read(FILE_BYTES_MAX))
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            # Not the error's own text: it quotes what it could not read.
            _log.warning("Content key %s is damaged (%s).", key_id, type(error).__name__)
            self.remove(key_id)
            return None
        return found if found.content_key == key_id else None

    def put(self, key: WrappedContentKey) -> None:
        """
        Raises:
            DiskFull, DiskFailing: what was there before is untouched.
        """
        with disk_errors("keeping a content key"):
            self._directory.mkdir(exist_ok=True, mode=0o700)
        content = key.model_dump_json().encode()
        replace_durably(self._path(key.content_key), content, mode=0o600)

    def remove(self, key_id: str) -> None:
        with suppress(OSError):
            self._path(key_id).unlink()
            fsync_directory(self._directory)

    def remove_others(self, keep: AbstractSet[str]) -> None:
        """What nothing names any more: without its key an old release is closed for good here."""
        for key_id in self.ids() - keep:
            self.remove(key_id)

    def _path(self, key_id: str) -> Path:
        if not _ID.fullmatch(key_id):
            raise ValueError(f"not the id of a content key: {key_id[:80]!r}")
        return self._directory / key_id

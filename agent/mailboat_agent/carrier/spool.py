"""``import/``: what was carried here and is not taken up yet.

```text
<sha256>         a file that waits for a release to ask for it
<sha256>.part    a file on its way; nothing counts on it
timestamp        the carried timestamp role
manifest         the carried bundle; written last: while it is there, there is something to take up
origins.json     which files of the store came this way, until it was told
lock             one import at a time
```

The directory says what is to be done, so every step may be done twice and a crash needs no code of
its own. Nothing in it is trusted: the manifest takes the path of any manifest, and a file enters
the store only under the hash it really has.
"""

import fcntl
import json
import logging
import os
import re
import stat
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from mailboat_agent.artifacts.release_store import ReleaseStore
from mailboat_agent.atomic_file import (
    DiskFailing,
    disk_errors,
    fsync_directory,
    replace_durably,
)
from mailboat_schemas.desired import FreshTimestamp, ManifestBundle
from mailboat_schemas.errors import Conflict, DiskFull
from mailboat_schemas.names import DIGEST_PATTERN

DIRECTORY = "import"
PART_SUFFIX = ".part"
ORIGINS_BYTES_MAX = 1 << 20
ORIGINS_MAX = 4096  # as many as a carrier has files; older ones are told as nobody's
_DIGEST = re.compile(DIGEST_PATTERN)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A carried manifest, as bytes; the timestamp may be missing after a crash."""

    manifest: bytes
    timestamp: bytes | None


class ImportSpool:
    def __init__(self, data_dir: Path) -> None:
        """Makes nothing: most devices never import."""
        self.directory = data_dir / DIRECTORY
        self._manifest = self.directory / "manifest"
        self._timestamp = self.directory / "timestamp"
        self._origins = self.directory / "origins.json"

    @property
    def owner(self) -> tuple[int, int] | None:
        """Whom all here has to belong to, if root writes it: the agent may reach for a file as soon
        as it has its name. None otherwise."""
        with suppress(OSError):
            found = self.directory.parent.stat()
            if os.geteuid() == 0 and found.st_uid != 0:
                return found.st_uid, found.st_gid
        return None

    # --- files ---------------------------------------------------------------------------------

    def path(self, digest: str) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise ValueError(f"not a sha256: {digest[:80]!r}")
        return self.directory / digest

    def part_path(self, digest: str) -> Path:
        path = self.path(digest)
        return path.with_name(path.name + PART_SUFFIX)

    def has(self, digest: str, length: int) -> bool:
        try:
            found = self.path(digest).lstat()
        except OSError:
            return False
        return stat.S_ISREG(found.st_mode) and found.st_size == length

    def move_into(self, store: ReleaseStore, digest: str, length: int) -> bool:
        """Bring a file from here into the store; False if it is not here. May be repeated.

        Raises:
            DigestMismatch: it is damaged, and gone now.
            DiskFull, DiskFailing: nothing has changed in the store.
        """
        if not self.has(digest, length):
            return False
        self._remember(digest, length)  # before the move: afterwards nobody knows where it is from
        with disk_errors("taking up an imported file"):
            self.path(digest).replace(store.staging_path(digest))
            fsync_directory(self.directory)
        store.admit(digest, length)
        return True

    # --- where files came from -----------------------------------------------------------------

    def imported_bytes(self, files: Mapping[str, int]) -> int:
        """How much of these files (bytes by digest) came this way."""
        origins = self._read_origins()
        return sum(length for digest, length in files.items() if digest in origins)

    def forget_origins(self, digests: AbstractSet[str]) -> None:
        """It was told, or nobody asks any more."""
        origins = self._read_origins()
        left = {digest: length for digest, length in origins.items() if digest not in digests}
        if left != origins:
            # At worst it is told again of a release with the same file.
            with suppress(DiskFull, DiskFailing):
                self._write_origins(left)

    def _remember(self, digest: str, length: int) -> None:
        origins = self._read_origins()
        if digest not in origins:
            newest = dict([*origins.items(), (digest, length)][-ORIGINS_MAX:])
            self._write_origins(newest)

    def _read_origins(self) -> dict[str, int]:
        """Of no more use than for a report: whatever is damaged counts as empty."""
        try:
            with self._origins.open("rb") as file:
                found = json.loads(file.read(ORIGINS_BYTES_MAX))
            return {str(digest): int(length) for digest, length in found.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}

    def _write_origins(self, origins: Mapping[str, int]) -> None:
        replace_durably(self._origins, json.dumps(origins).encode())

    # --- the manifest --------------------------------------------------------------------------

    def hand_over(self, manifest: bytes, timestamp: bytes) -> None:
        """From now on there is something to take up, after any crash too.

        Raises:
            DiskFull, DiskFailing
        """
        replace_durably(self._timestamp, timestamp, owner=self.owner)
        replace_durably(self._manifest, manifest, owner=self.owner)

    def stamp(self) -> tuple[int, int] | None:
        """Tells one waiting manifest from another without reading it; None if there is none."""
        try:
            found = self._manifest.lstat()
        except OSError:
            return None
        if not stat.S_ISREG(found.st_mode):
            return None  # nobody handed that over; the next import clears it away
        return found.st_ino, found.st_mtime_ns

    def waiting(self) -> Waiting | None:
        manifest = _read_small(self._manifest, ManifestBundle.wire_bytes_max)
        if manifest is None:
            return None
        return Waiting(manifest, _read_small(self._timestamp, FreshTimestamp.wire_bytes_max))

    def taken_up(self, stamp: tuple[int, int]) -> None:
        """Best effort: what stays is taken up once more, which changes nothing."""
        if self.stamp() != stamp:
            return  # another import has come meanwhile
        with suppress(OSError):
            self._manifest.unlink()
            self._timestamp.unlink(missing_ok=True)
            fsync_directory(self.directory)

    # --- room ----------------------------------------------------------------------------------

    def collect_garbage(self, keep: AbstractSet[str]) -> int:
        """Unlink files that no release asks for any more; returns the bytes freed. Not while an
        import runs, or before its manifest was taken up: until then nobody knows who will ask."""
        if not self.directory.is_dir() or self.stamp() is not None:
            return 0
        freed = 0
        try:
            with self.locked():
                for path in self.directory.iterdir():
                    digest = path.name.removesuffix(PART_SUFFIX)
                    if not _DIGEST.fullmatch(digest) or path.name in keep:
                        continue
                    size_bytes = path.lstat().st_size
                    path.unlink()
                    freed += size_bytes
        except (Conflict, OSError):
            return freed
        self.forget_origins(self._read_origins().keys() - keep)
        return freed

    @contextmanager
    def locked(self) -> Iterator[None]:
        """
        Raises:
            Conflict: an import is running.
            OSError: the directory cannot be used.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self.directory / "lock", flags, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Conflict(
                    "Another import is running on this device.",
                    next_step="wait until it has ended.",
                ) from error
            yield
        finally:
            os.close(descriptor)


def _read_small(path: Path, bytes_max: int) -> bytes | None:
    """None if it is not there, unreadable, or longer than such a thing is."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            content = file.read(bytes_max + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        _log.warning("%s cannot be read: %s", path, error)
        return None
    return content if len(content) <= bytes_max else None

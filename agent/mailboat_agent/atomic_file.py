"""How a file becomes durable: the only place that knows.

A name appears only when its content is on the disk, and the name itself is on the disk before the
call returns: write ``<name>.new``, fsync, rename, fsync the directory. Leaving out any one of the
four loses data in a power cut on a real file system (ext4, ordered).
"""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from mailboat_schemas.errors import ConfigurationInvalid, DiskFull, Transient

NEW_SUFFIX = ".new"
IN_THE_WAY_SUFFIX = ".in-the-way"
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR, errno.EAGAIN})


class DiskFailing(Transient):
    """The disk refused for another reason than being full: read-only, input/output error."""

    code = "E-DISK"


@contextmanager
def disk_errors(doing: str) -> Iterator[None]:
    """Turns what the disk says into ours. ``doing`` completes "… while ".

    Raises:
        DiskFull: no space or no quota left.
        DiskFailing: any other refusal.
    """
    try:
        yield
    except OSError as error:
        raise disk_error(error, doing) from error


def disk_error(error: OSError, doing: str) -> DiskFull | DiskFailing:
    """The error to raise for one that the operating system raised."""
    if error.errno in _NO_SPACE:
        return DiskFull(
            f"The disk is full ({error.strerror}) while {doing}.",
            next_step="free space in the data directory's file system; what serves goes on.",
        )
    return DiskFailing(
        f"The disk refused ({error.strerror or error}) while {doing}.",
        next_step="look at the kernel log and the mount options; what serves goes on.",
    )


def is_shortage(error: OSError) -> bool:
    """Whether a file could not be looked at for want of descriptors or memory: that says nothing
    about the file."""
    return error.errno in _SHORTAGES


def replace_durably(
    path: Path, content: bytes, *, mode: int = 0o600, owner: tuple[int, int] | None = None
) -> None:
    """Make ``path`` hold ``content`` after any crash from now on; before, the old or the new.

    ``owner`` is whose the file is to be, as user and group, if root writes it for somebody else.

    Raises:
        DiskFull: the old content is untouched.
        DiskFailing: likewise, or the rename could not be made durable.
    """
    new = path.with_name(path.name + NEW_SUFFIX)
    with disk_errors(f"writing {path.name}"):
        try:
            for name in (new, path):
                clear_the_way(name)
            write_new_durably(new, content, mode=mode, owner=owner)
            new.replace(path)
        except OSError:
            # Half a file takes space that the next attempt may need.
            with suppress(OSError):
                new.unlink()
            raise
        fsync_directory(path.parent)


def clear_the_way(path: Path) -> None:
    """Where a file belongs, a directory is damage: it is moved aside. Raises OSError."""
    if path.is_dir() and not path.is_symlink():
        _move_aside(path)


def _move_aside(path: Path) -> None:
    """One is evidence enough."""
    aside = path.with_name(path.name + IN_THE_WAY_SUFFIX)
    if aside.is_dir() and not aside.is_symlink():
        shutil.rmtree(aside, ignore_errors=True)
    else:
        aside.unlink(missing_ok=True)
    path.rename(aside)


def make_directory(path: Path) -> None:
    """Where a directory belongs, a file is damage: it is moved aside. Raises OSError."""
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except FileExistsError:
        _move_aside(path)
        path.mkdir(mode=0o700)


def write_new_durably(
    path: Path, content: bytes, *, mode: int, owner: tuple[int, int] | None = None
) -> None:
    """Write and fsync one file; its name is durable only after `fsync_directory`. Raises OSError.

    An existing file is emptied first: never call it on a name that somebody reads.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, mode)
    try:
        os.fchmod(descriptor, mode)  # the umask may have taken bits, a leftover may have more
        if owner is not None:
            os.fchown(descriptor, *owner)
        write_all(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, content: bytes) -> None:
    """Write every byte; a short write is continued. Raises OSError."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def fsync_directory(path: Path) -> None:
    """Make the names in a directory durable: renames, new files, unlinks. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class LockedDirectory:
    """One agent per data directory: an advisory lock on ``<directory>/lock``.

    The kernel drops it when the process ends, however it ends, so nothing stale is left behind.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / "lock"
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        """
        Raises:
            ConfigurationInvalid: another process has it, or the directory cannot be used.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = self._open()
        except OSError as error:
            raise ConfigurationInvalid(
                f"The data directory {self._path.parent} cannot be used: {error.strerror}.",
                next_step="make it writable for the user the agent runs as.",
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise ConfigurationInvalid(
                f"Another agent uses the data directory {self._path.parent}.",
                next_step="stop it first, or give this one a data_dir of its own.",
            ) from error
        self._descriptor = descriptor
        return self

    def _open(self) -> int:
        # Not inherited by workers (O_CLOEXEC): a worker that outlives us must not hold it.
        flags = os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            return os.open(self._path, flags | os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
            # A disk that the kernel has made read-only: what is on it can still be served.
            return os.open(self._path, flags | os.O_RDONLY)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

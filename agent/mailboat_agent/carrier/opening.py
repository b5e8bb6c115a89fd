"""Opening a carried file: whatever else a stick may hold under that name is refused."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mailboat_schemas.carrier import NotACarrier
from mailboat_schemas.carrier_reader import CarrierReader
from mailboat_schemas.errors import Transient

_KINDS = {
    stat.S_IFDIR: "it is a directory",
    stat.S_IFIFO: "it is a named pipe",
    stat.S_IFSOCK: "it is a socket",
    stat.S_IFBLK: "it is a device",
    stat.S_IFCHR: "it is a device",
    stat.S_IFLNK: "it is a symbolic link",
}


class CarrierUnreadable(Transient):
    """The file, or the stick it is on, does not answer."""

    code = "E-CARRIER-UNREADABLE"


@contextmanager
def open_carrier(path: Path) -> Iterator[CarrierReader]:
    """
    Raises:
        CarrierUnreadable: at any time while it is read, such as when the stick is pulled out.
        NotACarrier: a directory, link, pipe, device, or a file of another kind.
        CarrierDamaged
    """
    try:
        kind = stat.S_IFMT(path.lstat().st_mode)
        if kind != stat.S_IFREG:
            raise NotACarrier(_KINDS.get(kind, "it is no file"))
        # Somebody may swap it in between: no link is followed, no pipe is waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _unreadable(path, error) from error

    def read_at(offset: int, count: int) -> bytes:
        try:
            return os.pread(descriptor, count, offset)
        except OSError as error:
            raise _unreadable(path, error) from error

    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise NotACarrier("it is no file")
        yield CarrierReader(read_at, found.st_size)
    finally:
        os.close(descriptor)


def _unreadable(path: Path, error: OSError) -> CarrierUnreadable:
    return CarrierUnreadable(
        f"{path} cannot be read: {error.strerror or error}.",
        next_step="check the name and the stick, plug it in again, and run the same command; what "
        "was copied already stays.",
    )

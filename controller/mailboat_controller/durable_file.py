"""How a file becomes durable here: written beside its place, then renamed onto it."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

SECRET_MODE = 0o600
PUBLIC_MODE = 0o644


def replace_durably(path: Path, content: bytes, *, mode: int = SECRET_MODE) -> None:
    """Put a whole file in place, so that a crash leaves the old one or the new one.

    The mode is set before the first byte is written: a secret is never readable for a moment.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".new")
    beside.unlink(missing_ok=True)
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)  # whatever the umask is
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    beside.replace(path)
    fsync_directory(path.parent)


@contextmanager
def replacing(path: Path, *, mode: int = SECRET_MODE) -> Iterator[BinaryIO]:
    """A file to write and read, which takes the place of ``path`` when all went well; nothing of
    it stays when not."""
    beside = path.with_name(f"{path.name}.{secrets.token_hex(8)}.new")
    descriptor = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "w+b") as file:
            yield file
            file.flush()
            os.fsync(descriptor)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    fsync_directory(path.parent)


def create_durably(path: Path, content: bytes, *, mode: int = SECRET_MODE) -> None:
    """Put a new file in place, whole or not at all, and never over another.

    Raises:
        FileExistsError: there is one.
    """
    beside = path.with_name(f"{path.name}.{secrets.token_hex(8)}.new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        os.link(beside, path)  # unlike a rename, it refuses a name that is taken
    finally:
        beside.unlink()
    fsync_directory(path.parent)


def fsync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

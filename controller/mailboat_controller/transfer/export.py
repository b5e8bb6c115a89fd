"""Writing a carrier: beside its name, file by file, and going on where an earlier try stopped."""

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mailboat_controller.byte_stream import OpenAt, receive
from mailboat_controller.durable_file import fsync_directory
from mailboat_schemas.carrier import (
    BLOCK_BYTES,
    CONTENTS_NAME,
    END,
    MANIFEST_NAME,
    TIMESTAMP_NAME,
    Contents,
    Member,
    carrier_bytes,
    header,
    members,
    padded,
)
from mailboat_schemas.carrier_reader import CarrierReader
from mailboat_schemas.errors import ConfigurationInvalid, Conflict, DigestMismatch, DiskFull

READ_BYTES = 1 << 20
PUBLIC_MODE = 0o644

Progress = Callable[[int], None]  # bytes of the file since the last call
OpenArtifact = Callable[[str], OpenAt]  # by digest


def part_of(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def write_carrier(
    path: Path,
    contents: Contents,
    *,
    manifest: bytes,
    timestamp: bytes,
    open_artifact: OpenArtifact,
    on_progress: Progress,
) -> None:
    """Bring ``path`` there, whole and durable. What a try before this one has written under
    ``part_of(path)`` is hashed and kept.

    Raises:
        DiskFull: or the file system takes no file of this length.
        DigestMismatch: the server has other bytes than were signed; they are dropped.
        DownloadInterrupted, ServerUnavailable: a retry goes on.
        Conflict: another export writes there.
        ConfigurationInvalid: the place cannot be written.
    """
    with _explained(path), _opened(part_of(path)) as part:
        written = os.fstat(part).st_size
        _require_room(path, carrier_bytes(contents) - written)
        small = {MANIFEST_NAME: manifest, TIMESTAMP_NAME: timestamp}
        beginning = _beginning(contents, small)
        if os.pread(part, len(beginning), 0) != beginning:
            os.ftruncate(part, 0)
            _append(part, beginning)
        on_progress(len(beginning))
        for member in members(contents):
            if member.name not in small:
                digest = member.file.sha256
                _bring(part, member, open_artifact(digest), on_progress)
        os.ftruncate(part, carrier_bytes(contents) - len(END))
        _append(part, END)
        # A stick that somebody else mounted has no owners, and its files the mode of the mount.
        with suppress(PermissionError):
            os.fchmod(part, PUBLIC_MODE)
        os.fsync(part)
        part_of(path).replace(path)
        fsync_directory(path.parent)


def verify_carrier(path: Path, on_progress: Progress) -> Contents:
    """Read all of it and compare every byte with what its table of contents says.

    Raises:
        NotACarrier, CarrierDamaged
        ConfigurationInvalid: it cannot be read.
    """
    with _explained(path):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            reader = CarrierReader(
                lambda offset, count: os.pread(descriptor, count, offset),
                os.fstat(descriptor).st_size,
            )
            for member in reader.members:
                reader.check(member, on_progress)
            reader.check_end()
        finally:
            os.close(descriptor)
    return reader.contents


def _beginning(contents: Contents, small: dict[str, bytes]) -> bytes:
    encoded = contents.encoded()
    pieces = [_member(CONTENTS_NAME, encoded)]
    pieces += [_member(name, content) for name, content in small.items()]
    return b"".join(pieces)


def _member(name: str, content: bytes) -> bytes:
    return header(name, len(content)) + content.ljust(padded(len(content)), b"\0")


def _bring(part: int, member: Member, open_at: OpenAt, on_progress: Progress) -> None:
    """One artifact with its header and padding, appended or completed."""
    begins, ends = member.offset, member.offset + member.file.length
    expected = header(member.name, member.file.length)
    if os.pread(part, BLOCK_BYTES, member.header_offset) != expected:
        os.ftruncate(part, member.header_offset)
        _append(part, expected)
    digest = hashlib.sha256()
    at = begins
    while at < ends and (chunk := os.pread(part, min(READ_BYTES, ends - at), at)):
        digest.update(chunk)
        at += len(chunk)
        on_progress(len(chunk))
    if at < ends or digest.hexdigest() != member.file.sha256:
        if at == ends:  # all of it is here, and wrong
            on_progress(begins - ends)
            digest, at = hashlib.sha256(), begins
        os.ftruncate(part, at)
        for chunk in receive(open_at, begin=at - begins, length=member.file.length):
            _append(part, chunk)
            digest.update(chunk)
            on_progress(len(chunk))
    if digest.hexdigest() != member.file.sha256:
        os.ftruncate(part, member.header_offset)
        raise DigestMismatch("An artifact", member.file.sha256, digest.hexdigest())
    if os.fstat(part).st_size < member.end:
        os.ftruncate(part, member.end)  # zeros


def _append(part: int, content: bytes) -> None:
    """At the end: every cut has put it there."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(part, rest) :]


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    part = os.open(path, flags, PUBLIC_MODE)
    try:
        try:
            fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Conflict(
                f"Another export is writing {path}.", next_step="wait until it has ended."
            ) from error
        yield part
    finally:
        os.close(part)


def _require_room(path: Path, bytes_needed: int) -> None:
    free_bytes = shutil.disk_usage(path.parent).free
    if bytes_needed > free_bytes:
        raise DiskFull(
            f"{path} needs {bytes_needed} bytes more, and {free_bytes} are free there.",
            next_step="make room, take a larger stick, or export some models with --model.",
        )


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(
                f"There is no room for {path}.",
                next_step="make room, or take a larger stick; then run the command again.",
            ) from error
        if error.errno == errno.EFBIG:
            raise DiskFull(
                f"The file system under {path} takes no file of this length.",
                next_step="format the stick as exFAT (FAT32 ends at 4 GiB), or export some models "
                "at a time with --model.",
            ) from error
        raise ConfigurationInvalid(
            f"{path} cannot be used: {error.strerror}.",
            next_step="check the path, its rights, and whether the stick is still there.",
        ) from error

"""A build's files: copied or encrypted into it under the sha256 of what is written."""

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from mailboat_schemas.content_key import content_key_id
from mailboat_schemas.documents.release import ARTIFACT_BYTES_MAX, Sealed
from mailboat_schemas.errors import DocumentInvalid
from mailboat_schemas.sealing import salt_of, seal

_CHUNK_BYTES = 1 << 20

Progress = Callable[[int], None]  # bytes read since the last call


def copy_file(origin: Path, part: Path, progress: Progress | None) -> tuple[str, int]:
    """The sha256 and length of what is now in ``part``, durably."""
    return _write(part, _chunks(origin, progress))


def seal_file(
    origin: Path, part: Path, content_key: bytes, progress: Progress | None
) -> tuple[str, int, Sealed]:
    """sha256 and length of the plaintext, and its encrypted form, which is in ``part`` durably.

    Read twice: the salt comes from the digest of all of it. Whatever has changed in between is
    refused, because one key and salt must never stand for two contents.
    """
    sha256, length = _measured(_chunks(origin, progress))
    again = hashlib.sha256()

    def plaintext() -> Iterator[bytes]:
        for chunk in _chunks(origin, None):
            again.update(chunk)
            yield chunk

    salt = salt_of(content_key, sha256, length)
    sealed_sha256, sealed_length = _write(part, seal(plaintext(), content_key, salt))
    if again.hexdigest() != sha256:
        raise DocumentInvalid(
            str(origin), "changed while it was read", next_step="build again when it is finished."
        )
    key_id = content_key_id(content_key)
    return sha256, length, Sealed(content_key=key_id, sha256=sealed_sha256, length=sealed_length)


def _chunks(origin: Path, progress: Progress | None) -> Iterator[bytes]:
    """A source file's content. Raises OSError.

    Raises:
        DocumentInvalid: not a file, empty, or too large.
    """
    if not stat.S_ISREG(origin.stat().st_mode):  # reading a pipe would wait for a writer
        raise DocumentInvalid(str(origin), "is not a file", next_step="name a file with content.")
    length = 0
    with origin.open("rb") as reader:
        while chunk := reader.read(_CHUNK_BYTES):
            length += len(chunk)
            if length > ARTIFACT_BYTES_MAX:
                raise DocumentInvalid(
                    str(origin),
                    f"is larger than {ARTIFACT_BYTES_MAX} bytes",
                    next_step="split the model, or quantise it.",
                )
            yield chunk
            if progress is not None:
                progress(len(chunk))
    if length == 0:
        raise DocumentInvalid(
            str(origin), "is empty", next_step="look at the step that should have written it."
        )


def _measured(chunks: Iterator[bytes], write: Callable[[bytes], object] = len) -> tuple[str, int]:
    digest, length = hashlib.sha256(), 0
    for chunk in chunks:
        digest.update(chunk)
        length += len(chunk)
        write(chunk)
    return digest.hexdigest(), length


def _write(part: Path, chunks: Iterator[bytes]) -> tuple[str, int]:
    with part.open("wb") as writer:
        measured = _measured(chunks, writer.write)
        writer.flush()
        os.fsync(writer.fileno())
    return measured

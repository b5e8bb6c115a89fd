"""Encrypted files of a release: opened into memory, never onto the disk.

What the plaintext must be is signed, so that alone is checked: a file that was changed, swapped or
sealed with another key does not come out as what the document says.
"""

import os
from collections.abc import Iterator

from mailboat_agent.artifacts.content_keys import ContentKeys
from mailboat_agent.artifacts.release_store import OPEN_FLAGS, ReleaseStore
from mailboat_agent.sealed_memory import verified_memory
from mailboat_schemas.documents.release import File, Sealed
from mailboat_schemas.errors import ArtifactMissing, DigestMismatch
from mailboat_schemas.sealing import HEADER_BYTES, SEGMENT_BYTES, TAG_BYTES, SealedDamaged
from mailboat_schemas.sealing import open_sealed as _open

READ_BYTES = 16 * (SEGMENT_BYTES + TAG_BYTES)  # one mebibyte of plaintext at a time


def open_into_memory(store: ReleaseStore, keys: ContentKeys, file: File, sealed: Sealed) -> int:
    """A descriptor of the plaintext in a sealed memfd. The caller closes it.

    Raises:
        ContentKeyUnusable: the key has to be fetched again.
        ArtifactMissing, DigestMismatch: the stored file is not there or damaged; it is set aside.
        SealedDamaged: it is what was signed, and does not open to what was signed.
        OSError: no memory for the plaintext.
    """
    key = keys.open(sealed.content_key)
    try:
        return verified_memory(_plaintext(store, sealed, key), file.sha256)
    except DigestMismatch as error:
        raise _explained(store, sealed, error) from error


def _plaintext(store: ReleaseStore, sealed: Sealed, key: bytes) -> Iterator[bytes]:
    try:
        descriptor = os.open(store.path(sealed.sha256), OPEN_FLAGS)
    except FileNotFoundError as error:
        raise ArtifactMissing(
            f"File {sealed.sha256[:16]} is not in the store.",
            next_step="nothing; it is downloaded when a release needs it.",
        ) from error
    except OSError as error:
        raise SealedDamaged(f"unreadable ({error.strerror})") from error
    try:
        yield from _open(_chunks(descriptor), key)
    except OSError as error:  # a bad sector
        raise SealedDamaged(f"unreadable ({error.strerror})") from error
    finally:
        os.close(descriptor)


def _chunks(descriptor: int) -> Iterator[bytes]:
    """The header, then whole segments: nothing has to be copied to bring pieces together."""
    yield os.read(descriptor, HEADER_BYTES)
    while chunk := os.read(descriptor, READ_BYTES):
        yield chunk


def _explained(store: ReleaseStore, sealed: Sealed, error: DigestMismatch) -> DigestMismatch:
    """Whose fault it is: the disk's, if the file is not what was downloaded, else the release's.

    Raises:
        ArtifactMissing, DigestMismatch: the disk's; the file is set aside.
    """
    os.close(store.open_verified(sealed.sha256))
    if isinstance(error, SealedDamaged):
        return error
    return SealedDamaged("it holds another file than the document says")

"""Encrypted files: AES-256-GCM over segments, written and read as a stream.

```text
header    48 bytes   magic "MBSEALED", version 1 (4), bytes in a segment (4), salt (32)
segments  1 to 2^32  AES-256-GCM of up to 65,536 bytes of plaintext, 16 bytes of tag each
```

The construction is STREAM (Hoang, Reyhanitabar, Rogaway, Vizár: "Online Authenticated-Encryption
and its Nonce-Reuse Misuse-Resistance", CRYPTO 2015): the nonce of a segment is a prefix of 7 bytes,
the segment's number (4) and 1 for the last one, else 0. So a segment that is moved, repeated, left
out or added, and a file that ends early or goes on, does not open, and no segment is handed out
before it did. The header is authenticated with every segment. Only the last segment may be short,
and none but the last of an empty file is empty, so a plaintext has one encrypted form.

Key and prefix are HKDF-SHA256 of the content key under the header's salt, and the salt is an HMAC
of the plaintext's sha256 and length under the content key. So one content key and one plaintext
give the same bytes each time, which makes builds reproducible, and a key meets a nonce again only
for the very same segment: two contents have two salts, hence two keys. What this gives away is that
two files are equal, which the signed document says anyhow.
"""

import hmac
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from mailboat_schemas.content_key import require_length
from mailboat_schemas.errors import DigestMismatch, ReleaseRejected

SCHEME = "aes-256-gcm-segments/1"
SEGMENT_BYTES = 64 * 1024
TAG_BYTES = 16
SALT_BYTES = 32
SEGMENTS_MAX = 1 << 32  # what the number in a nonce can count; 256 TiB

_MAGIC = b"MBSEALED"
_VERSION = (1).to_bytes(4, "big")
_START = _MAGIC + _VERSION + SEGMENT_BYTES.to_bytes(4, "big")
HEADER_BYTES = len(_START) + SALT_BYTES
_KEY_BYTES, _PREFIX_BYTES = 32, 7
_SALT_LABEL = b"mailboat " + SCHEME.encode() + b" salt"
_KEY_LABEL = b"mailboat " + SCHEME.encode() + b" key and nonce prefix"


class SealedDamaged(DigestMismatch):
    """An encrypted file that does not open with its content key to what its document says."""

    code = "E-SEALED"

    def __init__(self, problem: str) -> None:
        ReleaseRejected.__init__(
            self,
            f"An encrypted file does not open: {problem}.",
            next_step="build and release it again with one content key; what serves goes on.",
        )


def sealed_length(length: int) -> int:
    """Bytes of the encrypted form of ``length`` bytes: 48 and 16 a segment more, 0.025 %."""
    segments = max(1, -(-length // SEGMENT_BYTES))
    return HEADER_BYTES + length + segments * TAG_BYTES


def salt_of(content_key: bytes, sha256: str, length: int) -> bytes:
    """The salt of a plaintext with this digest and length (bytes) under this content key."""
    content = _SALT_LABEL + bytes.fromhex(sha256) + length.to_bytes(8, "big")
    return hmac.digest(require_length(content_key), content, "sha256")


def seal(chunks: Iterable[bytes], content_key: bytes, salt: bytes) -> Iterator[bytes]:
    """The encrypted form, in pieces of at most a segment.

    Args:
        chunks: the plaintext, in pieces of any size.
        salt: `salt_of` that very plaintext. The caller hashes what it hands over and throws the
            result away if it was another: key and nonces would stand for two contents.
    """
    header = _START + salt
    stream = _Stream.of(content_key, header)
    yield header
    for number, segment, last in _numbered(chunks, SEGMENT_BYTES):
        yield stream.cipher.encrypt(stream.nonce(number, last=last), segment, header)


def open_sealed(chunks: Iterable[bytes], content_key: bytes) -> Iterator[bytes]:
    """The plaintext, segment by segment, each handed out once it is authentic.

    All of it is authentic only when the iteration has ended without an error.

    Raises:
        SealedDamaged: another format, another key, or not the bytes that were written.
    """
    pieces = _Reader(chunks)
    header = pieces.take(HEADER_BYTES)
    if len(header) != HEADER_BYTES or not header.startswith(_START):
        raise SealedDamaged(f"it does not begin like one of {SCHEME}")
    stream = _Stream.of(content_key, header)
    for number, segment, last in _numbered(pieces.rest(), SEGMENT_BYTES + TAG_BYTES):
        try:
            plaintext = stream.cipher.decrypt(stream.nonce(number, last=last), segment, header)
        except (InvalidTag, ValueError) as error:
            raise SealedDamaged(f"segment {number} is not authentic") from error
        if not plaintext and number:
            raise SealedDamaged(f"segment {number} is empty")
        yield plaintext


@dataclass(frozen=True, slots=True)
class _Stream:
    cipher: AESGCM
    prefix: bytes

    @classmethod
    def of(cls, content_key: bytes, header: bytes) -> "_Stream":
        length = _KEY_BYTES + _PREFIX_BYTES
        kdf = HKDF(SHA256(), length, salt=header[len(_START) :], info=_KEY_LABEL)
        derived = kdf.derive(require_length(content_key))
        return cls(AESGCM(derived[:_KEY_BYTES]), derived[_KEY_BYTES:])

    def nonce(self, number: int, *, last: bool) -> bytes:
        return self.prefix + number.to_bytes(4, "big") + (b"\1" if last else b"\0")


class _Reader:
    """A few bytes first, then the rest."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._held = b""

    def take(self, count: int) -> bytes:
        while len(self._held) < count:
            chunk = next(self._chunks, None)
            if chunk is None:
                break
            self._held += chunk
        taken, self._held = self._held[:count], self._held[count:]
        return taken

    def rest(self) -> Iterator[bytes]:
        if self._held:
            yield self._held
        yield from self._chunks


def _numbered(chunks: Iterable[bytes], size: int) -> Iterator[tuple[int, bytes, bool]]:
    """Pieces of ``size`` bytes, the last one shorter perhaps: its number, itself, if it is last.

    Holds one piece and one chunk. Whether a piece is the last is known when the next begins.
    """
    number, held = 0, bytearray()
    for chunk in chunks:
        held += chunk
        while len(held) > size:  # not at ==: what is exactly full may be the last
            yield number, bytes(held[:size]), False
            del held[:size]
            number += 1
            if number >= SEGMENTS_MAX:
                raise SealedDamaged(f"it has more than {SEGMENTS_MAX} segments")
    yield number, bytes(held), True

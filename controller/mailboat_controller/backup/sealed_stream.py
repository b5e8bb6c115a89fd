"""Bytes of any length, encrypted in chunks with a passphrase: written and read as a stream.

```text
mailboat-backup 1
{"salt": …, "n": …, "r": …, "p": …, "chunk_bytes": …}
chunk, chunk, …, last chunk
```
The key is scrypt of the passphrase (RFC 7914). Each chunk is AES-256-GCM under a nonce that counts;
whether it is the last one is a part of the nonce, so a file cut off between two chunks is found, as
is any that was changed, moved or added (the STREAM construction: Hoang, Reyhanitabar, Rogaway,
Vizár, "Online Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance", 2015).
"""

import io
import json
import os
from typing import IO, Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from mailboat_schemas.errors import OperatorNeeded

MAGIC = b"mailboat-backup 1\n"
CHUNK_BYTES = 1 << 20
TAG_BYTES = 16
SALT_BYTES = 32
KEY_BYTES = 32
HEADER_BYTES_MAX = 1024
# 64 MiB and some 0.2 s for each guess.
SCRYPT_N, SCRYPT_R, SCRYPT_P = 1 << 16, 8, 1
PASSPHRASE_BYTES_MIN = 12


class BackupUnusable(OperatorNeeded):
    """Not a backup, not whole, changed, or not opened by this passphrase."""

    code = "E-BACKUP"


class SealedWriter(io.RawIOBase):
    """Takes what is written; the file is whole only once it was closed."""

    def __init__(self, file: IO[bytes], passphrase: bytes) -> None:
        super().__init__()
        salt = os.urandom(SALT_BYTES)
        header = {
            "salt": salt.hex(),
            "n": SCRYPT_N,
            "r": SCRYPT_R,
            "p": SCRYPT_P,
            "chunk_bytes": CHUNK_BYTES,
        }
        self._head = json.dumps(header).encode() + b"\n"
        self._file = file
        self._cipher = AESGCM(_key(passphrase, header))
        self._waiting = bytearray()
        self._number = 0
        file.write(MAGIC + self._head)

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._waiting += data
        while len(self._waiting) > CHUNK_BYTES:  # the last chunk is never empty-handed
            self._seal(bytes(self._waiting[:CHUNK_BYTES]), last=False)
            del self._waiting[:CHUNK_BYTES]
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._seal(bytes(self._waiting), last=True)
            self._waiting.clear()
        super().close()

    def _seal(self, chunk: bytes, *, last: bool) -> None:
        nonce = _nonce(self._number, last=last)
        self._file.write(self._cipher.encrypt(nonce, chunk, self._head))
        self._number += 1


class SealedReader(io.RawIOBase):
    """Gives back what was written, each chunk once it was found genuine."""

    def __init__(self, file: IO[bytes], passphrase: bytes) -> None:
        """
        Raises:
            BackupUnusable: it is none, or of another version.
        """
        super().__init__()
        if file.read(len(MAGIC)) != MAGIC:
            raise BackupUnusable(
                "This file is no backup of this version.",
                next_step="name a file that `mailboat backup` wrote.",
            )
        self._head = file.readline(HEADER_BYTES_MAX)
        self._cipher = AESGCM(_key(passphrase, _header(self._head)))
        self._file = file
        self._number = 0
        self._left = memoryview(b"")
        self._next = self._read_chunk()
        if not self._next:  # what is empty has a chunk as well
            raise _unknown_header()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """
        Raises:
            BackupUnusable: from here on it is not what was written.
        """
        if not self._left and self._next:
            self._left = memoryview(self._open())
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count

    def _open(self) -> bytes:
        sealed, self._next = self._next, self._read_chunk()
        try:
            nonce = _nonce(self._number, last=not self._next)
            chunk = self._cipher.decrypt(nonce, sealed, self._head)
        except InvalidTag as error:
            first = "or the passphrase is another one" if self._number == 0 else "or cut off"
            raise BackupUnusable(
                f"The backup does not open at chunk {self._number + 1}: it was changed, {first}.",
                next_step="try the passphrase of the day it was made; otherwise take another "
                "backup, and find out what happened to this one.",
            ) from error
        self._number += 1
        return chunk

    def _read_chunk(self) -> bytes:
        return self._file.read(CHUNK_BYTES + TAG_BYTES)


def _header(line: bytes) -> dict[str, Any]:
    try:
        header: dict[str, Any] = json.loads(line)
        expected = {"n": SCRYPT_N, "r": SCRYPT_R, "p": SCRYPT_P, "chunk_bytes": CHUNK_BYTES}
        found = {name: header[name] for name in expected}
        salt = bytes.fromhex(header["salt"])
    except (ValueError, KeyError, TypeError) as error:
        raise _unknown_header() from error
    # Of version 1 there is one set; a larger one would only make us work for a stranger.
    if found != expected or len(salt) != SALT_BYTES:
        raise _unknown_header()
    return header


def _unknown_header() -> BackupUnusable:
    return BackupUnusable(
        "The backup's header says nothing that this version knows.",
        next_step="take another copy of it; this one was changed or cut off.",
    )


def _key(passphrase: bytes, header: dict[str, Any]) -> bytes:
    if len(passphrase) < PASSPHRASE_BYTES_MIN:
        raise BackupUnusable(
            f"A passphrase for a backup has at least {PASSPHRASE_BYTES_MIN} bytes.",
            next_step="write a long one into the file, such as the output of "
            "`openssl rand -base64 32`, and keep it apart from the backups.",
        )
    salt = bytes.fromhex(header["salt"])
    scrypt = Scrypt(salt, length=KEY_BYTES, n=header["n"], r=header["r"], p=header["p"])
    return scrypt.derive(passphrase)


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([last])

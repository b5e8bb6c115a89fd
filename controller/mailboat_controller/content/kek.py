"""The key-encryption key: content keys are kept wrapped under it. In a file, or on a PKCS#11 token.

Either way the wrapped form is AES-256-GCM with a random nonce, bound to fleet and key id, so a row
of the database cannot pass for another.

PKCS#11 sources are URIs (RFC 7512)::

    pkcs11:token=keys;object=content-kek?module-path=/usr/lib/softhsm/libsofthsm2.so

Without ``module-path`` it is ``MAILBOAT_HSM_MODULE``. The PIN comes from ``MAILBOAT_HSM_PIN`` or
from the file that ``MAILBOAT_HSM_PIN_FILE`` names; never from the URI, which is in the settings.
"""

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qs, unquote

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mailboat_controller.authority.hardware_key import (
    MODULE_VARIABLE,
    PIN_BYTES_MAX,
    PIN_FILE_VARIABLE,
    PIN_VARIABLE,
    TOKEN_LOCK,
)
from mailboat_controller.authority.secret_files import read_secret_file
from mailboat_controller.durable_file import replace_durably
from mailboat_schemas.errors import ConfigurationInvalid, Transient

KEK_BYTES = 32
NONCE_BYTES = 12
TAG_BITS = 128
FILE_PREFIX, HSM_PREFIX = "file:", "pkcs11:"
_ID_LABEL = b"mailboat/content-kek/1 id"


class KekUnusable(Transient):
    """Content keys can neither be kept nor given out now. What devices hold already serves on."""

    code = "E-CONTENT-KEK"

    def __init__(self, problem: str) -> None:
        super().__init__(
            f"The key-encryption key cannot be used: {problem}.",
            next_step="look at the setting content_kek and at what it names; "
            "restore the file, or make the token reachable.",
        )


class KeyEncryptionKey(Protocol):
    """Two real ones: `FileKek` and `TokenKek`."""

    def id(self) -> str:
        """Which key this is; kept beside what it wraps."""

    def make_if_ours(self) -> None:
        """Make the key if it is one that this program makes, and is not there."""

    def wrap(self, content: bytes, binding: bytes) -> bytes: ...

    def unwrap(self, wrapped: bytes, binding: bytes) -> bytes: ...


def open_kek(source: str, own: Path) -> KeyEncryptionKey:
    """
    Args:
        source: ``file:PATH``, a plain path, or a ``pkcs11:`` URI; empty: the file ``own``, which is
            made when the first content key comes.

    Raises:
        ConfigurationInvalid: no such form, or the library for tokens is not installed.
    """
    if source.startswith(HSM_PREFIX):
        return TokenKek.from_uri(source)
    if source:
        return FileKek(Path(source.removeprefix(FILE_PREFIX)), ours=False)
    return FileKek(own, ours=True)


class FileKek:
    """32 random bytes in a file, readable by its owner only. Read for each use, never kept."""

    def __init__(self, path: Path, *, ours: bool) -> None:
        self._path = path
        self._ours = ours

    def id(self) -> str:
        return "file:" + hashlib.sha256(_ID_LABEL + self._read()).hexdigest()[:32]

    def make_if_ours(self) -> None:
        # A file that an operator named and that is gone may be a volume that is not mounted.
        if self._ours and not self._path.exists():
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            replace_durably(self._path, secrets.token_bytes(KEK_BYTES))

    def wrap(self, content: bytes, binding: bytes) -> bytes:
        nonce = secrets.token_bytes(NONCE_BYTES)
        return nonce + AESGCM(self._read()).encrypt(nonce, content, binding)

    def unwrap(self, wrapped: bytes, binding: bytes) -> bytes:
        try:
            return AESGCM(self._read()).decrypt(
                wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], binding
            )
        except (InvalidTag, ValueError) as error:
            raise KekUnusable("it does not open what was wrapped under it") from error

    def _read(self) -> bytes:
        try:
            with self._path.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                content = file.read(KEK_BYTES + 1)
        except OSError as error:
            raise KekUnusable(f"{self._path} cannot be read ({error.strerror})") from error
        if len(content) != KEK_BYTES:
            raise KekUnusable(f"{self._path} does not hold exactly {KEK_BYTES} bytes")
        if mode & 0o077:
            raise KekUnusable(f"{self._path} can be read by others (chmod 600)")
        return content


class TokenKek:
    """A 256-bit AES key on a PKCS#11 token, which does the work and never gives the key out."""

    def __init__(self, *, module: str, token: str, label: str) -> None:
        self._module = module
        self._token = token
        self._label = label

    @classmethod
    def from_uri(cls, uri: str) -> "TokenKek":
        """
        Raises:
            ConfigurationInvalid: token, object or module-path is missing, or a PIN stands in it.
        """
        path, _, query = uri.removeprefix(HSM_PREFIX).partition("?")
        pairs = (part.partition("=") for part in path.split(";") if part)
        named = {name: unquote(value) for name, _, value in pairs}
        asked = parse_qs(query)
        module = asked.get("module-path", [os.environ.get(MODULE_VARIABLE, "")])[0]
        told = {name.strip().lower() for name in (*named, *asked)}
        if not (named.get("token") and named.get("object") and module) or "pin-value" in told:
            raise ConfigurationInvalid(
                "The PKCS#11 URI of content_kek lacks token, object or module-path, or holds a "
                "PIN.",
                next_step="write pkcs11:token=NAME;object=NAME?module-path=/path/to/module.so and "
                f"set {PIN_VARIABLE} or {PIN_FILE_VARIABLE}.",
            )
        try:
            import pkcs11  # noqa: F401  an extra that only machines with a token install
        except ImportError as error:
            raise ConfigurationInvalid(
                "The setting content_kek names a token, and python-pkcs11 is not installed.",
                next_step="install mailboat[controller,hsm].",
            ) from error
        return cls(module=module, token=named["token"], label=named["object"])

    def id(self) -> str:
        return f"pkcs11:{self._token}/{self._label}"[:128]

    def make_if_ours(self) -> None:
        """Keys on tokens are made with the token's own tools."""

    def wrap(self, content: bytes, binding: bytes) -> bytes:
        nonce = secrets.token_bytes(NONCE_BYTES)
        with self._key() as key:
            sealed: bytes = key.encrypt(content, **_gcm(nonce, binding))
        return nonce + sealed

    def unwrap(self, wrapped: bytes, binding: bytes) -> bytes:
        with self._key() as key:
            nonce = wrapped[:NONCE_BYTES]
            content: bytes = key.decrypt(wrapped[NONCE_BYTES:], **_gcm(nonce, binding))
        return content

    @contextmanager
    def _key(self) -> Iterator[Any]:
        import pkcs11

        try:
            pin = _pin()
            with (
                TOKEN_LOCK,
                pkcs11.lib(self._module)
                .get_token(token_label=self._token)
                .open(user_pin=pin) as session,
            ):
                yield session.get_key(
                    label=self._label,
                    key_type=pkcs11.KeyType.AES,
                    object_class=pkcs11.ObjectClass.SECRET_KEY,
                )
        except (pkcs11.PKCS11Error, RuntimeError, OSError, ConfigurationInvalid) as error:
            what = type(error).__name__  # its text may be empty, and never holds a secret
            raise KekUnusable(f"token {self._token}, key {self._label}: {what}") from error


def _pin() -> str | None:
    """
    Raises:
        ConfigurationInvalid: the file that should hold it cannot be read.
    """
    path = os.environ.get(PIN_FILE_VARIABLE)
    return read_secret_file(Path(path), PIN_BYTES_MAX) if path else os.environ.get(PIN_VARIABLE)


def _gcm(nonce: bytes, binding: bytes) -> dict[str, Any]:
    import pkcs11

    return {
        "mechanism": pkcs11.Mechanism.AES_GCM,
        "mechanism_param": pkcs11.GCMParams(nonce=nonce, aad=binding, tag_bits=TAG_BITS),
    }

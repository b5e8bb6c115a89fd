"""Ed25519 keys as PEM files, optionally encrypted; never on a command line."""

import os
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from securesystemslib.signer import CryptoSigner

from mailboat_schemas.errors import ConfigurationInvalid, Conflict

KEY_FILE_BYTES_MAX = 16 * 1024
PASSPHRASE_VARIABLE = "MAILBOAT_KEY_PASSPHRASE"  # noqa: S105 - the name of a variable


def create_key(path: Path, *, passphrase: bytes | None = None) -> CryptoSigner:
    """Make an Ed25519 key and write it, readable by its owner only.

    Raises:
        Conflict: a key is there already; keys are never overwritten.
    """
    key = Ed25519PrivateKey.generate()
    encryption: KeySerializationEncryption = (
        BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    )
    content = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise Conflict(
            f"There is a key at {path} already.", next_step="choose another directory; keep it."
        ) from None
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return CryptoSigner(key)


def load_key(path: Path) -> CryptoSigner:
    """Read a private key; the passphrase comes from ``MAILBOAT_KEY_PASSPHRASE`` if it has one.

    Raises:
        ConfigurationInvalid: no such file, not a key, or the passphrase does not open it.
    """
    try:
        with path.open("rb") as file:
            content = file.read(KEY_FILE_BYTES_MAX)
    except OSError as error:
        raise ConfigurationInvalid(
            f"The key {path} cannot be read: {error.strerror}.", next_step="check the path."
        ) from error
    passphrase = os.environ.get(PASSPHRASE_VARIABLE)
    try:
        return CryptoSigner(_open(content, passphrase.encode() if passphrase else None))
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigurationInvalid(
            f"{path} is not a private key this program can open.",
            next_step=f"if it is encrypted, set {PASSPHRASE_VARIABLE}; otherwise check the file.",
        ) from error


def _open(content: bytes, passphrase: bytes | None) -> PrivateKeyTypes:
    try:
        return load_pem_private_key(content, passphrase)
    except TypeError:
        # The variable may be set for other keys: the controller's own, for one, have none.
        return load_pem_private_key(content, None)

"""Private keys: where a signing command takes one from, and how one is made.

A key is named by a *source*, never given on a command line:

```text
path/to/key.pem   file:path      a PEM file; encrypted ones are opened with a passphrase
fd:3                             a PEM from an inherited descriptor, as a CI's secret store gives it
env:NAME                         a PEM, or its base64, from an environment variable
pkcs11:token=…;id=%02   hsm:2    a key that never leaves its token, see `hardware_key`
```
"""

import base64
import binascii
import getpass
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from securesystemslib.signer import CryptoSigner, Signer

from mailboat_controller.authority.public_keys import with_name
from mailboat_controller.authority.secret_files import read_secret_file
from mailboat_controller.durable_file import create_durably
from mailboat_schemas.errors import ConfigurationInvalid, Conflict

KEY_FILE_BYTES_MAX = 16 * 1024
PASSPHRASE_BYTES_MAX = 1024
PASSPHRASE_VARIABLE = "MAILBOAT_KEY_PASSPHRASE"  # noqa: S105 - the name of a variable
PASSPHRASE_FILE_VARIABLE = "MAILBOAT_KEY_PASSPHRASE_FILE"  # noqa: S105
_BEGIN = b"-----BEGIN "
_HEX_SECRET = re.compile(r"[0-9a-fA-F]{32,}")

Ask = Callable[[str], str]  # a question in words to a secret


def create_key(path: Path, *, passphrase: bytes | None = None, name: str = "") -> CryptoSigner:
    """Make an Ed25519 key and write it, readable by its owner only.

    Args:
        name: for people; travels with the public key, not in the file.

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
        create_durably(path, content)
    except FileExistsError:
        raise Conflict(
            f"There is a key at {path} already.", next_step="choose another directory; keep it."
        ) from None
    signer = CryptoSigner(key)
    return CryptoSigner(key, with_name(signer.public_key, name)) if name else signer


def open_signer(source: str, *, ask: Ask | None = None) -> Signer:
    """The signer that a source names; see the top of this module.

    Args:
        ask: puts the question for a passphrase or PIN that no variable holds; without it a person
            at a terminal is asked, and nobody otherwise.

    Raises:
        ConfigurationInvalid: there is no key, it is too long, or its passphrase does not open it.
        HardwareKeyUnusable: a token, its module or its PIN cannot be used.
    """
    ask = ask or _asker()
    refuse_secret(source)
    kind, colon, rest = source.partition(":")
    match kind if colon else "":
        case "fd":
            return _signer(_from_descriptor(rest), source, ask)
        case "env":
            return _signer(_from_environment(rest), source, ask)
        case "pkcs11" | "hsm":
            # python-pkcs11 is an extra of its own, and slow to load.
            from mailboat_controller.authority.hardware_key import open_hardware_key

            return open_hardware_key(source, ask)
        case "file":
            return _signer(_from_file(Path(rest)), rest, ask)
        case _:
            return _signer(_from_file(Path(source)), source, ask)


def refuse_secret(source: str) -> None:
    """A key itself in the place of its source stands in process lists, and would in our error too.

    Raises:
        ConfigurationInvalid: that is what it looks like; it is not repeated.
    """
    if "-----" in source or "\n" in source or _HEX_SECRET.fullmatch(source):
        raise ConfigurationInvalid(
            "This looks like a key itself, not like the name of a place that holds one.",
            next_step="name a file, fd:N or env:NAME; replace the key if others could see it.",
        )


def load_key(path: Path) -> CryptoSigner:
    """Read a private key file without asking anybody: the variables have the passphrase, if any.

    Raises:
        ConfigurationInvalid: no such file, not a key, or the passphrase does not open it.
    """
    return _signer(_from_file(path), str(path), None)


def known_passphrase() -> bytes | None:
    """What the variables say.

    Raises:
        ConfigurationInvalid: the file that one of them names cannot be read.
    """
    text = os.environ.get(PASSPHRASE_VARIABLE)
    path = os.environ.get(PASSPHRASE_FILE_VARIABLE)
    if not text and path:
        text = read_secret_file(Path(path), PASSPHRASE_BYTES_MAX)
    return text.encode() if text else None


def new_passphrase(ask: Ask | None = None) -> bytes | None:
    """What shall close new keys: from the variables, or asked twice; None where neither is there.

    Raises:
        ConfigurationInvalid: the two answers differ, or the file cannot be read.
    """
    known = known_passphrase()
    ask = ask or _asker()
    if known is not None or ask is None:
        return known
    first = ask("Passphrase for the new key: ")
    if first != ask("The same again: "):
        raise ConfigurationInvalid(
            "The two passphrases differ.", next_step="run the command again."
        )
    return first.encode() or None


def _asker() -> Ask | None:
    return getpass.getpass if sys.stdin is not None and sys.stdin.isatty() else None


def _from_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(KEY_FILE_BYTES_MAX)
    except OSError as error:
        raise ConfigurationInvalid(
            f"The key {path} cannot be read: {error.strerror}.", next_step="check the path."
        ) from error


def _from_descriptor(number: str) -> bytes:
    if not (number.isascii() and number.isdecimal() and len(number) <= 6):
        raise ConfigurationInvalid(
            "A descriptor is named by its number.", next_step="write fd:N, such as fd:3."
        )
    content = b""
    try:
        while len(content) < KEY_FILE_BYTES_MAX:
            part = os.read(int(number), KEY_FILE_BYTES_MAX - len(content))
            if not part:
                break
            content += part
    except OSError as error:
        raise ConfigurationInvalid(
            f"No key can be read from descriptor {number}: {error.strerror}.",
            next_step=f"open it for this command, for example `{number}< key.pem`.",
        ) from error
    return content


def _from_environment(name: str) -> bytes:
    text = os.environ.get(name, "")
    if not text:
        raise ConfigurationInvalid(
            f"The environment variable {name} is empty or not set.",
            next_step="put the key's PEM, or its base64, into it.",
        )
    content = text.encode()[:KEY_FILE_BYTES_MAX]
    if content.lstrip().startswith(_BEGIN):
        return content
    try:
        return base64.b64decode(b"".join(content.split()), validate=True)
    except binascii.Error:
        return b""  # not a key, as whoever opens it will say


def _signer(content: bytes, source: str, ask: Ask | None) -> CryptoSigner:
    try:
        return _opened(content, source, ask)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigurationInvalid(
            f"{source} is not a private key this program can open.",
            next_step=f"if it is encrypted, set {PASSPHRASE_VARIABLE} to its passphrase or "
            f"{PASSPHRASE_FILE_VARIABLE} to a file that holds it; otherwise check the key.",
        ) from error


def _opened(content: bytes, source: str, ask: Ask | None) -> CryptoSigner:
    # Tried without one first: the variables may be set for other keys (the controller's own, for
    # one, have none), and nobody is asked without need.
    try:
        return CryptoSigner(load_pem_private_key(content, None))
    except TypeError:
        passphrase = known_passphrase()
    if passphrase is None and ask is not None:
        passphrase = ask(f"Passphrase of {source}: ").encode()
    return CryptoSigner(load_pem_private_key(content, passphrase))

"""Public keys: the file that carries one to a ceremony, and the name people know it by.

The file is JSON: the key as TUF metadata has it, with its id and a name::

    {"keyid": "8f…", "keytype": "ed25519", "keyval": {"public": "…"}, "scheme": "ed25519",
     "x-mailboat-name": "vad approver 1"}

A plain PEM public key does as well. A key's id is always the hash of what it is, so that one key
cannot stand in a role under two ids and be counted twice.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)
from securesystemslib.exceptions import FormatError
from securesystemslib.formats import encode_canonical
from securesystemslib.signer import Key, SSlibKey

from mailboat_controller.durable_file import PUBLIC_MODE, replace_durably
from mailboat_schemas.errors import ConfigurationInvalid

NAME_FIELD = "x-mailboat-name"
NAME_CHARS_MAX = 64
PUBLIC_KEY_BYTES_MAX = 16 * 1024
SUFFIX = ".pub"


def with_name(key: Key, name: str) -> SSlibKey:
    """The same key, called so by people; its id does not change.

    Raises:
        ConfigurationInvalid: too long, or not printable.
    """
    if len(name) > NAME_CHARS_MAX or not name.isprintable():
        raise ConfigurationInvalid(
            f"A key cannot be called {name[:NAME_CHARS_MAX]!r}.",
            next_step=f"use at most {NAME_CHARS_MAX} printable characters.",
        )
    fields = {**key.unrecognized_fields, NAME_FIELD: name}
    return SSlibKey(key.keyid, key.keytype, key.scheme, dict(key.keyval), fields)


def name_of(key: Key) -> str:
    """What people call it; empty when nobody named it. Whoever signed the metadata vouches."""
    name = key.unrecognized_fields.get(NAME_FIELD, "")
    if not isinstance(name, str):
        return ""
    return "".join(char for char in name[:NAME_CHARS_MAX] if char.isprintable())


def label_of(key: Key) -> str:
    """Name and the beginning of the id, for lists."""
    return f"{name_of(key) or 'key'} ({key.keyid[:8]})"


def labels(keys: Iterable[Key]) -> str:
    return ", ".join(sorted(label_of(key) for key in keys))


def has_own_id(key: Key) -> bool:
    """Whether the id is the hash of the key, as python-tuf's default is."""
    content: dict[str, Any] = {
        "keytype": key.keytype,
        "scheme": key.scheme,
        "keyval": key.keyval,
    }
    try:
        canonical = encode_canonical(content)
    except FormatError:
        return False
    return isinstance(canonical, str) and (
        hashlib.sha256(canonical.encode()).hexdigest() == key.keyid
    )


def material_of(key: Key) -> bytes:
    """What the key is, however it is written: its SubjectPublicKeyInfo, DER.

    Hexadecimal digits may be capitals and a PEM may have other line ends. Then the id is another,
    and true to what is written; the key is the same, and so is whoever holds it.

    Raises:
        ValueError: it is none of Ed25519, ECDSA and RSA.
    """
    public = str(key.keyval.get("public", ""))
    try:
        if key.keytype == "ed25519":
            return _spki(Ed25519PublicKey.from_public_bytes(bytes.fromhex(public)))
        return _spki(load_pem_public_key(public.encode()))
    except UnsupportedAlgorithm as error:
        raise ValueError("it is none of Ed25519, ECDSA and RSA") from error


def _spki(key: object) -> bytes:
    if not isinstance(key, Ed25519PublicKey | EllipticCurvePublicKey | RSAPublicKey):
        raise ValueError("it is none of Ed25519, ECDSA and RSA")
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def write_public_key(path: Path, key: Key) -> None:
    content = {"keyid": key.keyid, **key.to_dict()}
    text = json.dumps(content, indent=1, sort_keys=True) + "\n"
    replace_durably(path, text.encode(), mode=PUBLIC_MODE)


def read_public_key(path: Path) -> SSlibKey:
    """A public key from our file or a PEM.

    Raises:
        ConfigurationInvalid: unreadable, too long, another kind of key, or an id that is not its.
    """
    try:
        with path.open("rb") as file:
            content = file.read(PUBLIC_KEY_BYTES_MAX)  # one cut off there is no key any more
        if content.lstrip().startswith(b"-----BEGIN"):
            return _from_pem(content, None)
        return _from_json(json.loads(content))
    except OSError as error:
        raise _unusable(path, error.strerror or "it cannot be read") from error
    except (ValueError, KeyError, TypeError, AttributeError, UnsupportedAlgorithm) as error:
        raise _unusable(path, str(error)[:200]) from error


def _from_json(content: Any) -> SSlibKey:
    keyid = content["keyid"]
    scheme, public = content["scheme"], content["keyval"]["public"]
    if content["keytype"] == "ed25519":
        key = SSlibKey.from_crypto(Ed25519PublicKey.from_public_bytes(bytes.fromhex(public)))
    else:
        key = _from_pem(public.encode(), scheme)
    if key.keyid != keyid:
        raise ValueError("its id is not the hash of the key")
    name = content.get(NAME_FIELD, "")
    return with_name(key, str(name)) if name else key


def _from_pem(content: bytes, scheme: str | None) -> SSlibKey:
    key = load_pem_public_key(content)
    if not isinstance(key, Ed25519PublicKey | EllipticCurvePublicKey | RSAPublicKey):
        raise ValueError("it is none of Ed25519, ECDSA and RSA")
    return SSlibKey.from_crypto(key, scheme=scheme)


def _unusable(path: Path, problem: str) -> ConfigurationInvalid:
    return ConfigurationInvalid(
        f"{path} is not a public key that can be used: {problem}.",
        next_step="make it with `mailboat trust make-key` or `mailboat trust public-key`, "
        "and hand over the .pub file.",
    )

"""The key of an encrypted release: its id, and how it travels to one device.

The id is a hash of the key, so a signed document that names the id commits to the key, and nobody
can put another one in its place. The key itself is never published. It goes to a device wrapped
to that device's own P-256 key with HPKE (RFC 9180, base mode: DHKEM(P-256, HKDF-SHA256),
HKDF-SHA256, AES-256-GCM), bound to fleet, device and id: what one device was given opens for no
other and under no other name.
"""

import hashlib
import hmac
from base64 import b64encode
from typing import Annotated

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import Base64Bytes, BaseModel, ConfigDict, Field, StringConstraints

from mailboat_schemas.errors import ReleaseRejected
from mailboat_schemas.names import Digest

CONTENT_KEY_BYTES = 32
CONTENT_KEY_ID_PATTERN = r"^[0-9a-f]{32}$"
WRAPPED_BYTES_MAX = 1024  # 113 today: 65 of the ephemeral key, 32 of the content key, 16 of the tag

ContentKeyId = Annotated[str, StringConstraints(pattern=CONTENT_KEY_ID_PATTERN)]

_ID_LABEL = b"mailboat/content-key/1 id"
_WRAP_LABEL = b"mailboat/content-key/1 wrapped to device"
_SUITE = hpke.Suite(hpke.KEM.P256, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)


class WrongContentKey(ReleaseRejected):
    """A key that is not the one its id stands for, or not wrapped to whoever tries to use it."""

    code = "E-CONTENT-KEY"


class ContentKeyHandover(BaseModel):
    """What a publisher sends, over TLS. The only message with a content key in the clear."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str = Field(pattern=r"^[0-9a-f]{64}$", repr=False, description="256 bits, hex")


class WrappedContentKey(BaseModel):
    """What a device is answered, and keeps: of no use without the device's private key."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    content_key: ContentKeyId
    device_key: Digest = Field(description="sha256 of the key it is wrapped to (DER)")
    wrapped: Base64Bytes = Field(max_length=WRAPPED_BYTES_MAX * 2)

    @classmethod
    def of(cls, key_id: str, device_key: str, wrapped: bytes) -> "WrappedContentKey":
        return cls(content_key=key_id, device_key=device_key, wrapped=b64encode(wrapped))


def content_key_id(key: bytes) -> str:
    """32 hex digits. Says nothing about the key: 256 random bits cannot be guessed from a hash."""
    return hashlib.sha256(_ID_LABEL + require_length(key)).hexdigest()[:32]


def require_key(key_id: str, key: bytes) -> bytes:
    """The key, if it is the one that the id stands for.

    Raises:
        WrongContentKey
    """
    if not hmac.compare_digest(content_key_id(key), key_id):
        raise WrongContentKey(
            f"This is not the content key {key_id}.",
            next_step="hand over the key that `mailboat release build --encrypt` made: "
            "the file content-key of the build.",
        )
    return key


def require_length(key: bytes) -> bytes:
    """
    Raises:
        WrongContentKey: not 256 bits.
    """
    if len(key) != CONTENT_KEY_BYTES:
        raise WrongContentKey(
            f"A content key has {CONTENT_KEY_BYTES} bytes, not {len(key)}.",
            next_step="use the file content-key that `mailboat release build --encrypt` made.",
        )
    return key


def device_key_id(key: ec.EllipticCurvePublicKey) -> str:
    """The sha256, in hex, of a device's key (SubjectPublicKeyInfo in DER)."""
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def wrap_to_device(
    key: bytes, public_key: ec.EllipticCurvePublicKey, *, fleet: str, device: str
) -> bytes:
    """The key for one device; other bytes each time."""
    info = _binding(fleet, device, content_key_id(key))
    return _SUITE.encrypt(key, public_key, info=info)


def unwrap(
    wrapped: bytes,
    private_key: ec.EllipticCurvePrivateKey,
    *,
    key_id: str,
    fleet: str,
    device: str,
) -> bytes:
    """The content key.

    Raises:
        WrongContentKey: damaged, or wrapped to another key, for another device, fleet or id.
    """
    try:
        key = _SUITE.decrypt(wrapped, private_key, info=_binding(fleet, device, key_id))
    except (InvalidTag, ValueError) as error:
        raise WrongContentKey(
            f"The content key {key_id} was not wrapped to this device's key, or is damaged.",
            next_step="nothing; the device asks for it again.",
        ) from error
    return require_key(key_id, key)


def _binding(*names: str) -> bytes:
    """Unambiguous: each part with its length in front."""
    parts = (_WRAP_LABEL, *(name.encode() for name in names))
    return b"".join(len(part).to_bytes(2, "big") + part for part in parts)

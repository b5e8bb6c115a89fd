"""DSSE: a payload, its type, and signatures over both.

Signatures are checked over the bytes received, before anything parses them. The pre-authentication
encoding is that of the DSSE protocol (secure-systems-lab/dsse, protocol.md); the envelope travels
as msgpack, like all our payloads, instead of JSON with base64.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import Field

from mailboat_schemas.codec import WireModel
from mailboat_schemas.errors import SignatureInvalid

if TYPE_CHECKING:
    from securesystemslib.signer import Signature

SIGNATURES_MAX = 16


class PayloadType:
    """What is signed. Bound into every signature, so one kind never passes for another."""

    DESIRED_STATE = "application/vnd.mailboat.desired-state.v1+msgpack"
    DEVICE_DESIRED = "application/vnd.mailboat.device-desired.v1+msgpack"
    SITE_ORDER = "application/vnd.mailboat.site-order.v1+msgpack"
    REPORTED_STATE = "application/vnd.mailboat.reported-state.v1+msgpack"
    EVENT_BATCH = "application/vnd.mailboat.event-batch.v1+msgpack"
    TELEMETRY_BATCH = "application/vnd.mailboat.telemetry-batch.v1+msgpack"
    LOG_EXCERPT = "application/vnd.mailboat.log-excerpt.v1+msgpack"
    HELLO = "application/vnd.mailboat.hello.v1+msgpack"
    PRESENCE = "application/vnd.mailboat.presence.v1+msgpack"
    ACK = "application/vnd.mailboat.ack.v1+msgpack"


class EnvelopeSignature(WireModel):
    keyid: str = Field(min_length=1, max_length=128)
    sig: bytes = Field(min_length=1, max_length=1024)


class Envelope(WireModel):
    """A signed payload. Nothing in ``payload`` means anything before a signature held."""

    wire_bytes_max: ClassVar[int] = 320 * 1024
    unpacked_bytes_max: ClassVar[int] = 512 * 1024

    payload_type: str = Field(min_length=1, max_length=128)
    payload: bytes
    signatures: tuple[EnvelopeSignature, ...] = Field(min_length=1, max_length=SIGNATURES_MAX)

    def pae(self) -> bytes:
        return pre_authentication_encoding(self.payload_type, self.payload)

    def tuf_signatures(self) -> "Mapping[str, Signature]":
        """The signatures in the form that python-tuf's ``verify_delegate`` takes."""
        from securesystemslib.signer import Signature  # late: most who open envelopes need no TUF

        return {s.keyid: Signature(s.keyid, s.sig.hex()) for s in self.signatures}


def pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """``"DSSEv1" SP len(type) SP type SP len(payload) SP payload``, lengths in ASCII decimal."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign_as_device(
    payload_type: str, payload: bytes, key: ec.EllipticCurvePrivateKey, keyid: str
) -> Envelope:
    """Seal a payload with a device's own P-256 key (ECDSA over SHA-256)."""
    signature = key.sign(
        pre_authentication_encoding(payload_type, payload), ec.ECDSA(hashes.SHA256())
    )
    return Envelope(
        payload_type=payload_type,
        payload=payload,
        signatures=(EnvelopeSignature(keyid=keyid, sig=signature),),
    )


def open_from_device(
    envelope: Envelope, payload_type: str, key: ec.EllipticCurvePublicKey, device: str
) -> bytes:
    """The payload, once the device's own signature over it held.

    Raises:
        SignatureInvalid: another payload type, or no signature by this key.
    """
    if envelope.payload_type == payload_type:
        for signature in envelope.signatures:
            try:
                key.verify(signature.sig, envelope.pae(), ec.ECDSA(hashes.SHA256()))
            except InvalidSignature:
                continue
            return envelope.payload
    raise SignatureInvalid(
        f"A message in the name of device {device} is not signed with that device's key.",
        next_step="if the device was enrolled anew, wait for its next report; "
        "otherwise somebody forges its messages: look at the broker's access log.",
    )

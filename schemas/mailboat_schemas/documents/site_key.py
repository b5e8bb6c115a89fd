"""A key that a site may order with, as a signed Policy names it: the content of its ``.pub`` file,
and when it ends.

The signers of the Policy delegate with it: for that one site, and to hold and go back alone.
"""

import hashlib
from typing import Any, Literal, Self

from pydantic import AwareDatetime, Field, model_validator
from securesystemslib.exceptions import (
    FormatError,
    UnverifiedSignatureError,
    VerificationError,
)
from securesystemslib.formats import encode_canonical

from mailboat_schemas.documents.document import Strict

SITE_KEYS_MAX = 4  # of one site: who is on duty, and one to change over to
KEY_NAME_CHARS_MAX = 64
KEY_NAME_PATTERN = r"^[ -~]+$"
PUBLIC_CHARS_MAX = 1000  # a PEM of P-384 has 215


class KeyValue(Strict):
    public: str = Field(min_length=1, max_length=PUBLIC_CHARS_MAX)


class PublicKey(Strict):
    """A public key as `mailboat trust make-key` writes it. Its id is the hash of what it is, so
    that a name for one key is never a name for another."""

    keyid: str = Field(pattern=r"^[0-9a-f]{64}$")
    keytype: Literal["ed25519", "ecdsa"]
    scheme: Literal["ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384"]
    keyval: KeyValue
    name: str = Field(
        alias="x-mailboat-name",
        min_length=1,
        max_length=KEY_NAME_CHARS_MAX,
        pattern=KEY_NAME_PATTERN,
    )

    @model_validator(mode="after")
    def _has_its_own_id(self) -> Self:
        if (self.keytype == "ed25519") != (self.scheme == "ed25519"):
            raise ValueError(f"{self.scheme} is no scheme of {self.keytype} keys")
        if self.keyid != _hash_of(self.keytype, self.scheme, self.keyval.public):
            raise ValueError("its id is not the hash of the key; take the .pub file as it is")
        return self

    def holds(self, signature: bytes, signed: bytes) -> bool:
        """Whether this key made the signature over these bytes."""
        # Late: many read documents, few of them check what a site signed.
        from securesystemslib.signer import Signature, SSlibKey

        key = SSlibKey(self.keyid, self.keytype, self.scheme, {"public": self.keyval.public})
        try:
            key.verify_signature(Signature(self.keyid, signature.hex()), signed)
        except (UnverifiedSignatureError, VerificationError):
            return False
        return True


class SiteKey(Strict):
    key: PublicKey = Field(description="the content of its .pub file")
    expires: AwareDatetime = Field(description="afterwards nothing that it signed counts")


def _hash_of(keytype: str, scheme: str, public: str) -> str:
    content: dict[str, Any] = {"keytype": keytype, "scheme": scheme, "keyval": {"public": public}}
    try:
        canonical = encode_canonical(content)
    except FormatError:
        return ""
    return hashlib.sha256(str(canonical).encode()).hexdigest()

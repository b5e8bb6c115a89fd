"""Signatures of webhooks as Standard Webhooks asks for (github.com/standard-webhooks, spec 1.0).

Signed is ``id.timestamp.body`` with HMAC-SHA256; the id is the same in every attempt, the timestamp
is that of the attempt, so a receiver can refuse what is old and drop what it has.
"""

import base64
import binascii
import contextlib
import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime

from mailboat_schemas.errors import ConfigurationInvalid

SECRET_PREFIX = "whsec_"  # noqa: S105  how a secret begins
SECRET_BYTES = 32
SECRET_BYTES_MIN, SECRET_BYTES_MAX = 24, 64  # of the specification
_WRITTEN = re.compile(r"^whsec_[A-Za-z0-9+/]+={0,2}$")


def new_secret() -> str:
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def key_of(secret: str) -> bytes:
    """
    Raises:
        ConfigurationInvalid: not ``whsec_`` and 24 to 64 bytes in base64.
    """
    text = secret.strip()
    key = b""
    if _WRITTEN.match(text):
        with contextlib.suppress(binascii.Error):
            key = base64.b64decode(text.removeprefix(SECRET_PREFIX), validate=True)
    if not SECRET_BYTES_MIN <= len(key) <= SECRET_BYTES_MAX:
        raise ConfigurationInvalid(
            "This is no secret for a webhook.",
            next_step=f"take {SECRET_PREFIX} and {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} random "
            "bytes in base64, or let `mailboat webhook add --secret-out FILE` make one.",
        )
    return key


def headers(keys: Sequence[bytes], event: str, body: bytes, now: datetime) -> Mapping[str, str]:
    """What the receiver verifies the body with: one signature of each key."""
    timestamp = str(int(now.timestamp()))
    signed = b".".join((event.encode(), timestamp.encode(), body))
    signatures = (hmac.new(key, signed, hashlib.sha256).digest() for key in keys)
    return {
        "webhook-id": event,
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(f"v1,{base64.b64encode(s).decode()}" for s in signatures),
    }

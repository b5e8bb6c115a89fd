"""Challenges for devices that prove that they have their key, without a certificate.

Nothing is stored for a challenge that was given, so that strangers cannot fill anything: it carries
its own seal. What is stored is that one was used, and only a registered device can use one.
"""

import base64
import binascii
import hashlib
import hmac
import secrets
import threading
from datetime import datetime, timedelta

from mailboat_schemas.errors import NotPermitted

CHALLENGE_LIFETIME = timedelta(minutes=2)
KEY_BYTES = 32
NONCE_BYTES = 16
_INSTANT_BYTES = 8


class ChallengeRefused(NotPermitted):
    """Not one of ours, for another device, over, or used before."""

    code = "E-CHALLENGE"


class Challenges:
    """Of one process: a restart makes those that are out worthless, and the device asks again."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(KEY_BYTES)
        self._lock = threading.Lock()
        self._used: dict[bytes, datetime] = {}  # bounded by how often devices may renew

    def give(self, device: str, now: datetime) -> str:
        """One for a device of this name, whether or not there is such a device."""
        ends_ms = int((now + CHALLENGE_LIFETIME).timestamp() * 1000)
        content = ends_ms.to_bytes(_INSTANT_BYTES) + secrets.token_bytes(NONCE_BYTES)
        return base64.urlsafe_b64encode(content + self._seal(device, content)).decode()

    def check(self, challenge: str, device: str, now: datetime) -> None:
        """
        Raises:
            ChallengeRefused
        """
        try:
            content = base64.urlsafe_b64decode(challenge.encode())
        except (binascii.Error, ValueError) as error:
            raise _refused("is none of this controller's") from error
        content, seal = (
            content[: _INSTANT_BYTES + NONCE_BYTES],
            content[_INSTANT_BYTES + NONCE_BYTES :],
        )
        if not hmac.compare_digest(seal, self._seal(device, content)):
            raise _refused("is none of this controller's for this device")
        if int.from_bytes(content[:_INSTANT_BYTES]) <= now.timestamp() * 1000:
            raise _refused("has ended")
        if content in self._used:
            raise _refused("has been used")

    def use(self, challenge: str, now: datetime) -> None:
        """Spend one that `check` let pass and that the device has signed.

        Raises:
            ChallengeRefused: somebody was faster with the very same request.
        """
        content = base64.urlsafe_b64decode(challenge.encode())[: _INSTANT_BYTES + NONCE_BYTES]
        with self._lock:
            if content in self._used:
                raise _refused("has been used")
            self._used = {one: ends for one, ends in self._used.items() if ends > now}
            self._used[content] = now + CHALLENGE_LIFETIME

    def _seal(self, device: str, content: bytes) -> bytes:
        return hmac.new(self._key, device.encode() + b"\0" + content, hashlib.sha256).digest()


def _refused(problem: str) -> ChallengeRefused:
    return ChallengeRefused(
        f"The challenge of this renewal {problem}.",
        next_step="nothing, the device asks for a new one; if it repeats, somebody may be sending "
        "what a device sent before: look at the audit log.",
    )

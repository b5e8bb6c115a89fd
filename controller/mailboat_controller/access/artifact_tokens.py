"""Short-lived tokens that open one artifact: signed by us, so nothing is stored for a download.

``mba_<what it says, base64url>_<HMAC-SHA256, hex>``. The key is random, made on this disk, and
replaced daily; the one before verifies for as long as a token it signed may live. Who asked stands
in the token, so the holder's revocation ends it before its time (`api/authentication.py` looks).
"""

import base64
import binascii
import hashlib
import hmac
import json
import secrets
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog

from mailboat_controller.access.rate_limits import Buckets, RateLimited
from mailboat_controller.durable_file import replace_durably
from mailboat_schemas.errors import NotPermitted

LIFE_MAX = timedelta(minutes=15)
KEY_LIFE = timedelta(days=1)
# Each is in the audit log, which is never emptied: a stolen device must not fill the disk with it.
ORDERS_PER_MINUTE = 30
ORDERS_BURST = 120
KEYS_MAX = 2  # the one that signs, and the one before
# Between making a token and seeing it, our own clock may be set back a little, but not by more.
CLOCK_BACK_MAX = timedelta(minutes=1)
TOKEN_PREFIX = "mba_"  # noqa: S105  what every token begins with, no secret
_KEY_BYTES = 32
_FILE_BYTES_MAX = 4096

_log = structlog.get_logger(__name__)


class ArtifactTokenInvalid(NotPermitted):
    """Malformed, or not signed by this controller."""

    code = "E-ARTIFACT-TOKEN-INVALID"


class ArtifactTokenExpired(NotPermitted):
    code = "E-ARTIFACT-TOKEN-EXPIRED"


class ArtifactTokenElsewhere(NotPermitted):
    """A good token, shown for something else than the artifact it was made for."""

    code = "E-ARTIFACT-TOKEN-OTHER"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What a token says: this artifact, asked for by this holder."""

    digest: str
    holder: str  # kind:name, or role:name
    credential: str  # the serial of the holder's certificate, or the id of their token
    issued_at: datetime
    expires_at: datetime

    def __str__(self) -> str:
        return self.holder


@dataclass(frozen=True, slots=True, kw_only=True)
class _Key:
    id: str
    made_at: datetime
    secret: bytes = field(repr=False)


class ArtifactTokens:
    """Makes and reads them. Safe to use from many threads."""

    def __init__(self, path: Path) -> None:
        """``path``: where the keys are kept; made at the first token."""
        self._path = path
        self._lock = threading.Lock()
        self._keys = _load(path)
        self._orders = Buckets(per_second=ORDERS_PER_MINUTE / 60, burst=ORDERS_BURST)

    def issue(
        self, digest: str, *, holder: str, credential: str, now: datetime, life: timedelta
    ) -> tuple[str, datetime]:
        """A token and when it ends; never more than `LIFE_MAX` from now.

        Raises:
            RateLimited: this holder has asked for too many.
        """
        with self._lock:
            wait_seconds = self._orders.take(holder, time.monotonic())
        if wait_seconds:
            raise RateLimited(
                f"{holder} asks for too many tokens for artifacts.",
                next_step=f"use a token for its {LIFE_MAX // timedelta(minutes=1)} minutes; there "
                f"are {ORDERS_PER_MINUTE} a minute.",
                retry_after=timedelta(seconds=wait_seconds),
            )
        key = self._signing_key(now)
        expires_at = now + min(life, LIFE_MAX)
        said = [key.id, digest, holder, credential, _ms(now), _ms(expires_at)]
        content = json.dumps(said, separators=(",", ":")).encode()
        text = base64.urlsafe_b64encode(content).decode()
        return f"{TOKEN_PREFIX}{text}_{_sign(key, content)}", expires_at

    def verify(self, token: str, now: datetime) -> Grant:
        """What a token of ours says.

        Raises:
            ArtifactTokenInvalid: it is none of ours.
            ArtifactTokenExpired: its time is over, or our clock was set back to before it.
        """
        content, signature = _parts(token)
        try:
            key_id, digest, holder, credential, issued_ms, expires_ms = json.loads(content)
        except (ValueError, TypeError, RecursionError) as error:
            raise _invalid() from error
        key = next((each for each in self._keys if each.id == key_id), None)
        # A key of our own making that is gone signed nothing that still lives; one that we never
        # had cannot be told from it, and helps nobody to know.
        if key is None or not hmac.compare_digest(_sign(key, content).encode(), signature.encode()):
            raise _invalid()
        # Only now is it known that we wrote this, so its parts are what they were.
        grant = Grant(
            digest=digest,
            holder=holder,
            credential=credential,
            issued_at=_instant(issued_ms),
            expires_at=_instant(expires_ms),
        )
        if not grant.issued_at - CLOCK_BACK_MAX <= now < grant.expires_at:
            raise ArtifactTokenExpired(
                f"This token for an artifact ended at {grant.expires_at:%H:%M:%S} UTC.",
                next_step="ask for another one; it lives for "
                f"{LIFE_MAX // timedelta(minutes=1)} minutes at most.",
            )
        return grant

    def _signing_key(self, now: datetime) -> _Key:
        with self._lock:
            newest = self._keys[0] if self._keys else None
            # Also when the clock was set back: a key must not sign for longer than its day.
            if newest is not None and timedelta() <= now - newest.made_at < KEY_LIFE:
                return newest
            key = _Key(id=secrets.token_hex(4), made_at=now, secret=secrets.token_bytes(_KEY_BYTES))
            keys = (key, *self._keys)[:KEYS_MAX]
            _save(self._path, keys)
            self._keys = keys
            return key


def _load(path: Path) -> tuple[_Key, ...]:
    try:
        with path.open("rb") as file:
            rows = json.loads(file.read(_FILE_BYTES_MAX))
        return tuple(
            _Key(
                id=str(row["id"]),
                made_at=_instant(row["made_at_ms"]),
                secret=bytes.fromhex(row["secret"]),
            )
            for row in rows[:KEYS_MAX]
        )
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, KeyError, TypeError) as error:
        # Nothing is lost but a quarter of an hour of tokens, and those are asked for again.
        _log.warning("the keys of artifact tokens are made anew", problem=type(error).__name__)
        return ()


def _save(path: Path, keys: tuple[_Key, ...]) -> None:
    rows = [
        {"id": key.id, "made_at_ms": _ms(key.made_at), "secret": key.secret.hex()} for key in keys
    ]
    replace_durably(path, json.dumps(rows).encode() + b"\n")


def _parts(token: str) -> tuple[bytes, str]:
    text, _, signature = token.removeprefix(TOKEN_PREFIX).rpartition("_")
    try:
        return base64.b64decode(text, altchars=b"-_", validate=True), signature
    except (binascii.Error, ValueError) as error:
        raise _invalid() from error


def _sign(key: _Key, content: bytes) -> str:
    return hmac.new(key.secret, content, hashlib.sha256).hexdigest()


def _invalid() -> ArtifactTokenInvalid:
    return ArtifactTokenInvalid(
        "This token for an artifact is not one that this controller made.",
        next_step="ask for a new one at this controller: POST /v1/artifacts/tokens.",
    )


def _ms(instant: datetime) -> int:
    return int(instant.timestamp() * 1000)


def _instant(instant_ms: int) -> datetime:
    return datetime.fromtimestamp(instant_ms / 1000, tz=UTC)

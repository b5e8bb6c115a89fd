"""Finding out who asks: an access token, a token for one artifact, or a client certificate.

Nothing here says what somebody may do. A token that does not hold is never made up for by a
certificate in the same request, and of a token only its id ever appears in an error.
"""

import hmac
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import structlog

from mailboat_controller.access.artifact_tokens import TOKEN_PREFIX as ARTIFACT_PREFIX
from mailboat_controller.access.artifact_tokens import ArtifactTokenElsewhere, Grant
from mailboat_controller.access.people import TOKEN_PREFIX, Role, Token, parse_token
from mailboat_controller.api.context import ApiContext
from mailboat_controller.api.identity import Caller, Person, Revoked, check_registry
from mailboat_controller.https_server import CLIENT_CERTIFICATE, EXTENSION
from mailboat_controller.pki.certificates import end_of, holder_of
from mailboat_controller.store import access_tokens, credentials, devices
from mailboat_controller.store.access_tokens import AccessTokenRow
from mailboat_schemas.enrolment import Kind
from mailboat_schemas.errors import NotPermitted, Transient

AUTHORIZATION_BYTES_MAX = 1024  # an artifact token has about 400
# Our clock may be set back by a little; more would bring tokens to life that have ended.
CLOCK_BACK_MAX = timedelta(minutes=5)
SOON = timedelta(days=7)  # then its holder is reminded to renew
# Compared with where no such id is known, so that the answer takes as long.
_NO_SHA256 = "0" * 64

_log = structlog.get_logger(__name__)


class TokenRefused(NotPermitted):
    """A bearer token that does not let its bearer in. ``token_id`` is "" unless we know the id."""

    def __init__(self, what: str, *, next_step: str, token_id: str = "") -> None:
        super().__init__(what, next_step=next_step)
        self.token_id = token_id


class TokenMalformed(TokenRefused):
    """Not one well-formed ``Authorization: Bearer …``."""

    code = "E-TOKEN-MALFORMED"


class TokenInvalid(TokenRefused):
    """No such token here. Whether the id is known is not told."""

    code = "E-TOKEN-INVALID"


class TokenExpired(TokenRefused):
    code = "E-TOKEN-EXPIRED"


class TokenRevoked(TokenRefused):
    code = "E-TOKEN-REVOKED"


class TokenInUrl(TokenRefused):
    """Addresses stand in logs and histories; a secret in one is no secret any more."""

    code = "E-TOKEN-IN-URL"


class CertificateExpired(NotPermitted):
    """Of a connection that was opened before the certificate ended."""

    code = "E-CERTIFICATE-EXPIRED"


def certificate_of(scope: Mapping[str, Any]) -> bytes | None:
    """The client's certificate, DER, which the TLS handshake has found to be of our CA."""
    tls = (scope.get("extensions") or {}).get(EXTENSION) or {}
    certificate: bytes | None = tls.get(CLIENT_CERTIFICATE)
    return certificate


def authenticate(
    authorization: list[bytes], certificate: bytes | None, context: ApiContext
) -> Caller | Grant | None:
    """Who asks, or None for nobody.

    Args:
        authorization: the values of every ``Authorization`` header.

    Raises:
        NotPermitted: whoever it is, they are not let in.
        Transient: the registry cannot be read now.
    """
    if not authorization:
        return None if certificate is None else _by_certificate(certificate, context)
    text = _bearer(authorization)
    if text.startswith(ARTIFACT_PREFIX):
        return _by_artifact_token(text, certificate, context)
    token = parse_token(text)
    if token is None:
        raise _malformed("is not an access token, which begins with " + TOKEN_PREFIX)
    return _by_token(token, context)


def _bearer(authorization: list[bytes]) -> str:
    if len(authorization) != 1:
        # Which of them counts would depend on who reads it.
        raise _malformed("appears more than once")
    if len(authorization[0]) > AUTHORIZATION_BYTES_MAX:
        raise _malformed(f"is longer than {AUTHORIZATION_BYTES_MAX} bytes")
    scheme, _, text = authorization[0].decode("latin-1").partition(" ")
    if scheme.lower() != "bearer":
        raise _malformed("is not of the scheme Bearer")
    return text.strip(" ")


def _malformed(problem: str) -> TokenMalformed:
    return TokenMalformed(
        f"The Authorization header {problem}.",
        next_step="send one header `Authorization: Bearer …` with the content of the token file.",
    )


def _by_token(token: Token, context: ApiContext) -> Person:
    now = context.now()
    with context.store.read() as tx:
        row = access_tokens.by_id(tx, token.id)
    known = _NO_SHA256 if row is None else row.secret_sha256
    if not hmac.compare_digest(known, token.secret_sha256) or row is None:
        raise TokenInvalid(
            "This access token is not one of this controller's.",
            next_step="check that connection file and token file belong together; ask for a new "
            "token with `mailboat token issue` on the controller's machine.",
            token_id="" if row is None else row.id,
        )
    refuse_ended(row, now)
    _note_use(row, now, context)
    soon = row.expires_at - now < SOON
    return Person(
        role=row.role, name=row.name, token_id=row.id, ends_soon=row.expires_at if soon else None
    )


def refuse_ended(row: AccessTokenRow, now: datetime) -> None:
    """
    Raises:
        TokenRevoked, TokenExpired
    """
    whose = f"{row.role}:{row.name} ({row.id})"
    again = "ask for a new one: `mailboat token issue` on the controller's machine."
    if row.revoked_at is not None:
        raise TokenRevoked(
            f"The access token of {whose} is revoked, or was renewed and replaced.",
            next_step=again,
            token_id=row.id,
        )
    if now >= row.expires_at:
        raise TokenExpired(
            f"The access token of {whose} ended at {row.expires_at:%Y-%m-%d %H:%M} UTC.",
            next_step=f"{again} Renew it in time with `mailboat token renew`.",
            token_id=row.id,
        )
    if now < row.created_at - CLOCK_BACK_MAX:
        raise TokenExpired(
            f"The access token of {whose} was made at {row.created_at:%Y-%m-%d %H:%M} UTC, which "
            "the controller's clock has not reached.",
            next_step="set the clock of the controller's machine.",
            token_id=row.id,
        )


def _note_use(row: AccessTokenRow, now: datetime, context: ApiContext) -> None:
    seen = row.last_used_at
    if seen is not None and now - seen < access_tokens.USED_EVERY:
        return
    try:
        with context.store.transaction() as tx:
            access_tokens.use(tx, row, now)
    except Transient as error:
        # Noted at the next request; a full disk must not keep out who could make room.
        _log.warning("the use of a token is not noted", token=row.id, problem=error.what)


def _by_certificate(certificate: bytes, context: ApiContext) -> Caller:
    found = holder_of(certificate)
    if found.fleet != context.settings.fleet:
        raise NotPermitted(
            f"{found} has a certificate of the fleet {found.fleet}, this is "
            f"{context.settings.fleet}.",
            next_step="use a connection file of this fleet.",
        )
    # The handshake has looked at this, but a connection may stay open, and be resumed, for long.
    if context.now() >= end_of(certificate):
        raise CertificateExpired(
            f"The certificate of {found} has ended.",
            next_step="a device renews by itself; for a pipeline or dashboard issue a new one: "
            "`mailboat credential issue`.",
        )
    check_registry(found, certificate, context)
    return found


def _by_artifact_token(text: str, certificate: bytes | None, context: ApiContext) -> Grant:
    now = context.now()
    grant = context.artifact_tokens.verify(text, now)
    if certificate is not None and str(holder_of(certificate)) != grant.holder:
        raise ArtifactTokenElsewhere(
            f"This token was made for {grant}, who is not the holder of this certificate.",
            next_step="ask for a token of your own.",
        )
    _check_still_holder(grant, now, context)
    return grant


def _check_still_holder(grant: Grant, now: datetime, context: ApiContext) -> None:
    """A grant lives no longer than its holder's own right to ask."""
    kind, _, name = grant.holder.partition(":")
    with context.store.read() as tx:
        if kind in set(Role):
            row = access_tokens.by_id(tx, grant.credential)
            good = row is not None and row.in_force(now)
        elif kind == Kind.DEVICE:
            device = devices.by_name(tx, name)
            good = device is not None and not device.revoked
        else:
            credential = credentials.by_serial(tx, grant.credential)
            good = credential is not None and not credential.revoked
    if not good:
        raise Revoked(
            f"{grant} asked for this token and is revoked since.",
            next_step="ask for a token as somebody who is not revoked.",
        )

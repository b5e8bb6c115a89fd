"""Who looks at the console: a session that stands for an access token, and ends with it.

The cookie holds 256 random bits; the database holds their sha256. So a session survives a restart,
ends at a logout wherever its cookie went, and ends at the next request once its token is revoked.
"""

import hashlib
import secrets
from datetime import timedelta

import structlog
from fastapi import Request, Response

from mailboat_controller.access.people import Token
from mailboat_controller.api.authentication import TokenInvalid, authenticate, refuse_ended
from mailboat_controller.api.context import ApiContext
from mailboat_controller.api.identity import Person
from mailboat_controller.store import access_tokens, console_sessions
from mailboat_schemas.errors import NotPermitted, Transient

PREFIX = "/console"
# The browser itself refuses a cookie of this name that is not Secure or has a Domain.
COOKIE = "__Host-mailboat-session"
SECRET_BYTES = 32
SECRET_CHARS_MAX = 64
SEEN_EVERY = timedelta(minutes=1)  # a write for every request would make readers wait for the disk

_log = structlog.get_logger(__name__)


class SessionEnded(NotPermitted):
    code = "E-SESSION-ENDED"


def secret_of(request: Request) -> str:
    """What the cookie says; "" without one."""
    return request.cookies.get(COOKIE, "")[:SECRET_CHARS_MAX]


def begin(token: Token, context: ApiContext) -> tuple[str, Person]:
    """A session's secret, and whose it is.

    Raises:
        NotPermitted: the token does not let its bearer in.
    """
    found = authenticate([f"Bearer {token.text()}".encode()], None, context)
    if not isinstance(found, Person):  # an access token is a person's
        raise TokenInvalid("This is not a person's token.", next_step="use an access token.")
    secret = secrets.token_urlsafe(SECRET_BYTES)
    with context.store.transaction() as tx:
        console_sessions.add(
            tx,
            sha256_of(secret),
            token_id=found.token_id,
            at=context.now(),
            ends_at=context.now() + timedelta(hours=context.settings.console.session_hours),
        )
    return secret, found


def end(request: Request, context: ApiContext) -> None:
    if not secret_of(request):
        return
    with context.store.transaction() as tx:
        console_sessions.end(tx, sha256_of(secret_of(request)))


def person_of(secret: str, context: ApiContext, *, active: bool) -> Person | None:
    """Whose session this is, or None for a secret that is none of ours.

    Args:
        active: the person did something; a page that keeps itself up to date does not count.

    Raises:
        SessionEnded, TokenRevoked, TokenExpired, Transient
    """
    now, digest = context.now(), sha256_of(secret[:SECRET_CHARS_MAX])
    with context.store.read() as tx:
        session = console_sessions.by_sha256(tx, digest)
        row = None if session is None else access_tokens.by_id(tx, session.token_id)
    if session is None or row is None:
        return None
    refuse_ended(row, now)
    idle = timedelta(minutes=context.settings.console.idle_minutes)
    if now >= min(session.ends_at, session.seen_at + idle):
        raise SessionEnded(
            "Your session has ended.", next_step="log in again with your access token."
        )
    if active and not timedelta() <= now - session.seen_at < SEEN_EVERY:
        _note_seen(digest, context)
    return Person(role=row.role, name=row.name, token_id=row.id)


def set_cookie(response: Response, secret: str) -> None:
    """For as long as the browser is open; how long the session lasts is ours to say."""
    response.set_cookie(COOKIE, secret, secure=True, httponly=True, samesite="strict", path="/")


def clear_cookie(response: Response) -> None:
    response.delete_cookie(COOKIE, secure=True, httponly=True, samesite="strict", path="/")


def sha256_of(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _note_seen(digest: str, context: ApiContext) -> None:
    try:
        with context.store.transaction() as tx:
            console_sessions.see(tx, digest, context.now())
    except Transient as error:
        # Noted at the next request; a full disk must not keep out who could make room.
        _log.warning("a session is not noted as used", problem=error.what)

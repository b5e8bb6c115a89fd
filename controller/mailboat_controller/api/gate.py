"""What every request passes first: is a secret in its address, who asks, and how often.

Identity comes before rate: a fleet of a thousand devices behind one address has a thousand
buckets, and whoever shares an address with a guesser is not kept out for it. Only those whom we do
not know are counted by address.
"""

import re
import secrets
import time
from datetime import timedelta

import structlog
from fastapi.concurrency import run_in_threadpool

from mailboat_controller.access.artifact_tokens import Grant
from mailboat_controller.access.rate_limits import AuditBound, Buckets, RateLimited, network_of
from mailboat_controller.api.authentication import (
    TokenInUrl,
    TokenRefused,
    authenticate,
    certificate_of,
)
from mailboat_controller.api.context import ApiContext
from mailboat_controller.api.identity import IDENTITY, Caller, Identity, Person
from mailboat_controller.api.limits import App, Message, Receive, Send, drain
from mailboat_controller.api.problems import problem_of
from mailboat_controller.console.visitor import console_visitor
from mailboat_controller.store import audit
from mailboat_schemas.errors import MailboatError, NotPermitted, Transient

ENDS_HEADER = b"mailboat-token-ends"  # of the last days; `client.py` tells its user
AUDITED_PER_MINUTE = 10  # of failed logins; the metric counts them all
# So that a fleet that was told to wait does not come back in one second.
SPREAD_SECONDS = 10
_SECRET_IN_URL = re.compile(rb"mb[ta]_|(?:^|&)(?:access_token|token|authorization)=", re.IGNORECASE)

_log = structlog.get_logger(__name__)


class Gate:
    """ASGI middleware. Leaves an `Identity` in the request's state for `identity.require`."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._limits: _Limits | None = None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context: ApiContext = scope["app"].state.context
        if self._limits is None:
            self._limits = _Limits(context)
        try:
            identity = await self._admit(scope, context, self._limits)
        except MailboatError as error:
            context.refused(error.code)
            if _has_body(scope):
                await drain(receive)
            answer = problem_of(error)
            answer.headers["Connection"] = "close"
            await answer(scope, receive, send)
            return
        scope.setdefault("state", {})[IDENTITY] = identity
        if isinstance(identity, Person) and identity.ends_soon is not None:
            send = _with_header(send, ENDS_HEADER, identity.ends_soon.isoformat())
        await self._app(scope, receive, send)

    async def _admit(self, scope: Message, context: ApiContext, limits: "_Limits") -> Identity:
        """
        Raises:
            TokenInUrl, RateLimited, Transient
        """
        address = _source(scope)
        if _SECRET_IN_URL.search(scope.get("query_string", b"")):
            limits.refuse(address)
            raise TokenInUrl(
                "This address carries a token, and addresses are written down everywhere.",
                next_step="revoke that token (`mailboat token revoke`), and send the new one in "
                "the Authorization header.",
            )
        authorization = [value for name, value in scope["headers"] if name == b"authorization"]
        certificate = certificate_of(scope)
        console = console_visitor(scope, authorization, certificate)
        if not authorization and certificate is None and console is None:
            limits.stranger(address)
            return None
        found: Caller | Grant | None
        try:
            if console is not None:
                found = await run_in_threadpool(console.identity, context)
            else:
                found = await run_in_threadpool(authenticate, authorization, certificate, context)
        except NotPermitted as refusal:
            limits.refuse(address)
            if isinstance(refusal, TokenRefused) and refusal.token_id:
                await self._audit(refusal, address, context, limits)
            limits.stranger(address)
            return refusal  # whoever needs an identity raises it; an open route does not
        if found is not None:
            limits.known(found)
        return found

    async def _audit(
        self, refusal: TokenRefused, address: str, context: ApiContext, limits: "_Limits"
    ) -> None:
        details = limits.audited(refusal, address)
        if details is None:
            return
        try:
            await run_in_threadpool(_append, context, refusal, details)
        except Transient as error:
            _log.warning("a refused token is not audited", problem=error.what)


class _Limits:
    """The buckets of one controller. For the event loop's thread alone."""

    def __init__(self, context: ApiContext) -> None:
        settings = context.settings
        self._known = Buckets(
            per_second=settings.rate_known_per_second, burst=settings.rate_known_burst
        )
        self._strangers = Buckets(
            per_second=settings.rate_stranger_per_second, burst=settings.rate_stranger_burst
        )
        self._refused = Buckets(
            per_second=settings.rate_refused_per_minute / 60, burst=settings.rate_refused_per_minute
        )
        self._audit = AuditBound(per_minute=AUDITED_PER_MINUTE)

    def known(self, who: Caller | Grant) -> None:
        self._take(self._known, str(who), f"{who} asks too often")

    def stranger(self, address: str) -> None:
        self._take(self._strangers, address, f"{address} asks too often without an identity")

    def refuse(self, address: str) -> None:
        """Count a refusal; too many of them are not even told why."""
        self._take(self._refused, address, f"{address} was refused too often")

    def audited(self, refusal: TokenRefused, address: str) -> dict[str, object] | None:
        """What to write down of a failed login, or None: somebody fails too often for that."""
        more = self._audit.details("", time.monotonic())
        return None if more is None else {"code": refusal.code, "address": address, **more}

    def _take(self, buckets: Buckets, key: str, what: str) -> None:
        wait_seconds = buckets.take(key, time.monotonic())
        if wait_seconds:
            spread = secrets.randbelow(SPREAD_SECONDS * 1000) / 1000
            raise RateLimited(
                f"{what}.",
                next_step="wait as long as Retry-After says; docs/configuration.md has the rates.",
                retry_after=timedelta(seconds=wait_seconds + spread),
            )


def _append(context: ApiContext, refusal: TokenRefused, details: dict[str, object]) -> None:
    with context.store.transaction() as tx:
        audit.append(
            tx,
            at=context.now(),
            actor="unknown",
            action="access_token.refuse",
            subject=f"token:{refusal.token_id}",
            reason=refusal.what,
            details=details,
        )


def _with_header(send: Send, name: bytes, value: str) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], (name, value.encode())]}
        await send(message)

    return sending


def _has_body(scope: Message) -> bool:
    # Without one, waiting for it would be waiting for the client to go away.
    names = {name for name, _ in scope["headers"]}
    return b"content-length" in names or b"transfer-encoding" in names


def _source(scope: Message) -> str:
    """The address whose requests are counted together."""
    client = scope.get("client")
    text = str(client[0]) if client else ""
    return network_of(text)

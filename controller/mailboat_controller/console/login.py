"""Logging in with an access token, logging out, and how the pages look."""

import threading
import time
from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Form, Query, Request, Response
from fastapi.responses import HTMLResponse

from mailboat_controller.access.people import TOKEN_CHARS_MAX, Token, parse_token
from mailboat_controller.access.rate_limits import AuditBound, Buckets, RateLimited, network_of
from mailboat_controller.api.authentication import TokenRefused
from mailboat_controller.api.context import ApiContext, Context
from mailboat_controller.api.problems import ERROR_CODE_HEADER
from mailboat_controller.console import render, session
from mailboat_controller.console.auth import Viewer, person_of_request
from mailboat_controller.console.flash import Flash, see_other
from mailboat_controller.console.proxy_sign_in import TOKEN_ID as PROXY
from mailboat_controller.store import audit

# Of one address, or one IPv6 network. Nobody guesses 256 bits; this bounds what guessing costs us.
FAILED_PER_MINUTE = 10
AUDITED_PER_MINUTE = 10  # the log is never emptied
YEAR_SECONDS = 365 * 86400

router = APIRouter()

Next = Annotated[str, Query(max_length=2000)]


class Failures:
    """How often logins may fail, by address. Safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._buckets = Buckets(per_second=FAILED_PER_MINUTE / 60, burst=FAILED_PER_MINUTE)
        self.audited = AuditBound(per_minute=AUDITED_PER_MINUTE)

    def count(self, address: str) -> None:
        """
        Raises:
            RateLimited: too many; whoever it is waits.
        """
        with self._lock:
            wait_seconds = self._buckets.take(address, time.monotonic())
        if wait_seconds:
            raise RateLimited(
                "Too many logins failed from your address.",
                next_step=f"wait {wait_seconds:.0f} s, then try again with a valid access token.",
                retry_after=timedelta(seconds=wait_seconds),
            )


@router.get("/login")
def login_page(request: Request, next: Next = session.PREFIX, why: str = "") -> Response:  # noqa: A002
    if person_of_request(request) is not None:
        return see_other(render.local_path(next))
    ended = "Your session has ended. Log in again." if why == "ended" else ""
    return _page(request, next, problem=ended)


@router.post("/login")
def log_in(
    request: Request,
    context: Context,
    token: Annotated[str, Form(max_length=TOKEN_CHARS_MAX)] = "",
    next: Annotated[str, Form(max_length=2000)] = session.PREFIX,  # noqa: A002
) -> Response:
    try:
        secret, person = session.begin(_parsed(token), context)
    except TokenRefused as refusal:
        return _refused(request, context, next, refusal)
    session.end(request, context)  # the one that this browser had, maybe of somebody else
    response = see_other(render.local_path(next), Flash("ok", f"Logged in as {person}."))
    session.set_cookie(response, secret)
    return response


@router.post("/logout")
def log_out(request: Request, person: Viewer, context: Context) -> Response:
    session.end(request, context)
    response = _signed_out_by_proxy(context) if person.token_id == PROXY else None
    response = response or see_other(f"{session.PREFIX}/login")
    session.clear_cookie(response)
    return response


def _signed_out_by_proxy(context: ApiContext) -> Response:
    """Whoever a proxy signed in would be signed in again by the next request."""
    console = context.settings.console
    if console.proxy_sign_out:
        return see_other(console.proxy_sign_out)
    said = (
        f"You are still signed in: the proxy {console.proxy} does that, and only it can sign you "
        "out. Close the browser, or sign out where you signed in."
    )
    return see_other(f"{session.PREFIX}/", Flash("warn", said))


@router.post("/theme")
def set_theme(
    theme: Annotated[str, Form(max_length=16)], back: Annotated[str, Form(max_length=2000)] = ""
) -> Response:
    """Light, dark, or as the system has it; kept in this browser."""
    response = see_other(render.local_path(back))
    chosen = theme if theme in render.THEMES else "auto"
    response.set_cookie(
        render.THEME_COOKIE, chosen, max_age=YEAR_SECONDS, secure=True, samesite="lax", path="/"
    )
    return response


def _parsed(text: str) -> Token:
    """
    Raises:
        TokenRefused
    """
    token = parse_token(text.strip())
    if token is None:
        raise TokenRefused(
            "That is not an access token, which begins with mbt_.",
            next_step="paste the content of the token file in your connection's directory.",
        )
    return token


def _refused(
    request: Request, context: ApiContext, back: str, refusal: TokenRefused
) -> HTMLResponse:
    """
    Raises:
        RateLimited
    """
    context.refused(refusal.code)
    failures: Failures = request.app.state.failures
    address = network_of(request.client.host if request.client else "")
    failures.count(address)
    details = failures.audited.details("", time.monotonic())
    if details is not None:
        with context.store.transaction() as tx:
            audit.append(
                tx,
                at=context.now(),
                actor="unknown",
                action="console.refuse_login",
                subject=f"token:{refusal.token_id}" if refusal.token_id else "console",
                reason=refusal.what,
                details={"code": refusal.code, "address": address, **details},
            )
    page = _page(request, back, problem=f"{refusal.what} Next: {refusal.next_step}", status=401)
    page.headers[ERROR_CODE_HEADER] = refusal.code
    return page


def _page(request: Request, back: str, *, problem: str, status: int = 200) -> HTMLResponse:
    data: dict[str, Any] = {"next": render.local_path(back), "problem": problem}
    return render.page(request, "login.html", status_code=status, **data)

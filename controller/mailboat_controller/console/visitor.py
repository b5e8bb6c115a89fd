"""Who asks for a page of the console, for the gate: a session's cookie, or a proxy that signed
somebody in. Neither opens anything but ``/console``: a cookie that reached the API would let every
page on the web speak for whoever is logged in here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import cookie_parser

from mailboat_controller.api.authentication import authenticate
from mailboat_controller.api.context import ApiContext
from mailboat_controller.api.identity import Person
from mailboat_controller.console import proxy_sign_in, session

_STATIC = f"{session.PREFIX}/static/"
# What an open page asks for while nobody is there keeps nobody logged in.
_BY_ITSELF = frozenset({f"{session.PREFIX}/live", f"{session.PREFIX}/session"})
_OF_SCRIPTS = frozenset({b"hx-request", b"mailboat-by-itself"})


@dataclass(frozen=True, slots=True)
class Visitor:
    """A request for a page, by what it came with."""

    secret: str
    certificate: bytes | None
    headers: Sequence[tuple[bytes, bytes]]
    active: bool  # a person did something

    def identity(self, context: ApiContext) -> Person | None:
        """
        Raises:
            NotPermitted: a session or certificate that has ended; Transient.
        """
        if self.certificate is not None and context.settings.console.proxy:
            found = authenticate([], self.certificate, context)
            person = proxy_sign_in.person_of(found, self.headers, context.settings.console)
            if person is not None:
                return person
        # A browser may have a certificate of ours for something else; it opens no page.
        if self.secret:
            return session.person_of(self.secret, context, active=self.active)
        return None


def console_visitor(
    scope: Mapping[str, Any], authorization: Sequence[bytes], certificate: bytes | None
) -> Visitor | None:
    """None: not a page, nothing that says who asks, or a token in the header, which goes first."""
    path: str = scope["path"]
    if authorization or not path.startswith(f"{session.PREFIX}/") or path.startswith(_STATIC):
        return None
    headers = [(name, value) for name, value in scope["headers"]]
    text = b"; ".join(value for name, value in headers if name == b"cookie").decode("latin-1")
    secret = cookie_parser(text).get(session.COOKIE, "")
    if not secret and certificate is None:
        return None
    by_itself = path in _BY_ITSELF or any(name in _OF_SCRIPTS for name, _ in headers)
    return Visitor(secret, certificate, headers, active=not by_itself)

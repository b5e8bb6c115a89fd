"""Changes come from our own pages alone: same origin, and a token that only our pages hold.

A cookie goes along with whatever any page sends here, so it proves who, not what they meant. Two
things must hold at once: the browser says that the request began on this origin, and the form
carries a token made from the session's secret, which no other origin can read.
"""

import hashlib
import hmac
import secrets

from fastapi import Request

from mailboat_controller.console.auth import person_of_request
from mailboat_controller.console.session import secret_of
from mailboat_schemas.errors import NotPermitted

FIELD = "csrf"
HEADER = "x-mailboat-csrf"  # htmx sends it so
FIELDS_MAX = 200
SAFE = frozenset({"GET", "HEAD"})
# Forms of people who have no session yet, and that change nothing but a cookie of their own.
WITHOUT_TOKEN = frozenset({"/login", "/theme"})
# For people whom a proxy signs in: they have no session secret. A restart makes open forms stale.
_PROCESS_KEY = secrets.token_bytes(32)


class CrossSite(NotPermitted):
    code = "E-CROSS-SITE"


def token_of(request: Request) -> str:
    """What forms of this request's person carry."""
    secret = secret_of(request)
    key = secret.encode() if secret else _PROCESS_KEY
    said = f"a form of {person_of_request(request)}"
    return hmac.new(key, said.encode(), hashlib.sha256).hexdigest()


async def guard(request: Request) -> None:
    """A dependency of every page: refuses a change that did not begin on one of our pages.

    Raises:
        CrossSite
    """
    if request.method in SAFE:
        return
    if not _same_origin(request):
        raise CrossSite(
            "This change began on another site, or it is not told where.",
            next_step="open the console in its own tab and do it there; if a proxy stands in "
            "between, let it pass the Host and Origin headers on as they are.",
        )
    if request.url.path.removeprefix(request.scope.get("root_path", "")) in WITHOUT_TOKEN:
        return
    sent = request.headers.get(HEADER)
    if sent is None:
        form = await request.form(max_files=0, max_fields=FIELDS_MAX)
        found = form.get(FIELD, "")
        sent = found if isinstance(found, str) else ""
    if not hmac.compare_digest(sent.encode(), token_of(request).encode()):
        raise CrossSite(
            "This form was made for another session, or before the controller was started again.",
            next_step="go back, reload the page, and do it again.",
        )


def _same_origin(request: Request) -> bool:
    site = request.headers.get("sec-fetch-site")
    if site is not None and site not in ("same-origin", "none"):
        return False
    origin = request.headers.get("origin")
    if origin is None:
        return site is not None
    # A page that came without TLS may be anybody's, whatever host it names.
    return origin == f"https://{request.headers.get('host')}"

"""Templates become pages. The only module that knows Jinja."""

from collections.abc import Mapping
from functools import cache
from typing import Any
from urllib.parse import urlencode

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined

from mailboat_controller.access.people import Role
from mailboat_controller.api.context import context_of
from mailboat_controller.console import csrf, flash, static_files, words
from mailboat_controller.console.auth import person_of_request
from mailboat_controller.console.session import PREFIX

THEME_COOKIE = "mailboat-theme"
THEMES = ("auto", "light", "dark")
# The places of the navigation: path below the console, what it is called, the key that goes there.
PLACES = (
    ("/", "Overview", "o"),
    ("/fleet", "Fleet", "f"),
    ("/rollouts", "Rollouts", "r"),
    ("/releases", "Releases", "e"),
    ("/sites", "Sites", "s"),
    ("/trust", "Trust", "t"),
    ("/audit", "Audit", "a"),
    ("/kpis", "KPIs", "k"),
)


@cache
def environment() -> Environment:
    made = Environment(
        loader=PackageLoader("mailboat_controller.console"),
        autoescape=True,  # every name in the fleet may be hostile
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals |= {"prefix": PREFIX, "places": PLACES, "static": static_files.address}
    made.globals |= {"query": query}
    made.filters |= {
        "span": words.span,
        "utc": words.utc,
        "instant": words.instant,
        "number": words.number,
        "size": words.size,
        "offset": words.offset,
        "json": words.json_text,
    }
    made.globals |= {"ago": words.ago, "percent": words.percent}
    return made


def page(
    request: Request,
    template: str,
    *,
    status_code: int = 200,
    headers: Mapping[str, str] | None = None,
    **data: Any,
) -> HTMLResponse:
    """A whole page.

    Templates know beside ``data``: ``now`` (the controller's clock, UTC), ``person`` (or None),
    ``may_operate``, ``may_approve``, ``csrf_token``, ``theme``, ``here`` (path and query of this
    page), ``fleet``, ``flash``.
    """
    said = flash.read(request)
    frame = frame_of(request) | {"flash": said}
    content = environment().get_template(template).render(frame | data)
    response = HTMLResponse(content, status_code=status_code, headers=dict(headers or {}))
    if said is not None:
        flash.clear(response)
    return response


def frame_of(request: Request) -> dict[str, Any]:
    context, person = context_of(request), person_of_request(request)
    theme = request.cookies.get(THEME_COOKIE, "auto")
    path = request.url.path
    return {
        "now": context.now(),
        "fleet": context.settings.fleet,
        "person": person,
        "may_operate": person is not None and person.role is Role.OPERATOR,
        "may_approve": person is not None and person.role is Role.APPROVER,
        "csrf_token": csrf.token_of(request),
        "theme": theme if theme in THEMES else "auto",
        "path": path,
        "here": f"{path}?{request.url.query}" if request.url.query else path,
    }


def query(**parameters: Any) -> str:
    """``?a=1&b=2`` of those that are not None or empty."""
    kept = {name: value for name, value in parameters.items() if value not in (None, "")}
    return f"?{urlencode(kept, doseq=True)}" if kept else ""


def local_path(text: str, otherwise: str = PREFIX) -> str:
    """A path of the console that somebody asked to be led to, or ``otherwise``: never another
    site, whatever the address says."""
    known = text == PREFIX or text.startswith((f"{PREFIX}/", f"{PREFIX}?"))
    plain = text.isascii() and text.isprintable() and "\\" not in text and "//" not in text
    return text if known and plain and len(text) <= 2000 else otherwise

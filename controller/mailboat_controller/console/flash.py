"""A word on the next page about what was just done: in a cookie that is read once."""

import base64
import binascii
import json
from typing import NamedTuple

from fastapi import Request, Response
from fastapi.responses import RedirectResponse

COOKIE = "__Host-mailboat-flash"
TEXT_CHARS_MAX = 400
KINDS = ("ok", "warn", "bad")


class Flash(NamedTuple):
    kind: str  # one of KINDS
    text: str


def see_other(path: str, flash: Flash | None = None) -> Response:
    """The answer to a change: look there. ``path`` is a path of ours, ``/console/…``."""
    response = RedirectResponse(path, status_code=303)
    if flash is not None:
        said = json.dumps([flash.kind, flash.text[:TEXT_CHARS_MAX]]).encode()
        response.set_cookie(
            COOKIE,
            base64.urlsafe_b64encode(said).decode().rstrip("="),
            max_age=60,
            secure=True,
            httponly=True,
            samesite="strict",
        )
    return response


def read(request: Request) -> Flash | None:
    text = request.cookies.get(COOKIE, "")
    if not text or len(text) > 4 * TEXT_CHARS_MAX * 4:
        return None
    try:
        kind, said = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (ValueError, TypeError, binascii.Error, RecursionError):
        return None
    if kind not in KINDS or not isinstance(said, str) or not _is_text(said):
        return None
    return Flash(kind, said[:TEXT_CHARS_MAX])


def _is_text(said: str) -> bool:
    """JSON can say half a character, which no page can."""
    return not any("\ud800" <= letter <= "\udfff" for letter in said)


def clear(response: Response) -> None:
    response.delete_cookie(COOKIE, secure=True, httponly=True, samesite="strict")

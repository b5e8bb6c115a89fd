"""What a code means: the rows of docs/errors.md, as a page that needs no network."""

from functools import cache
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response

from mailboat_controller.console.auth import Viewer
from mailboat_controller.console.render import page
from mailboat_schemas import error_page
from mailboat_schemas.error_page import Entry
from mailboat_schemas.errors import NotFound

router = APIRouter()


@router.get("/errors")
def codes(request: Request, _viewer: Viewer) -> Response:
    return page(request, "error_codes.html", entries=_entries(), code="")


@router.get("/errors/{code}")
def code(request: Request, _viewer: Viewer, code: Annotated[str, Path(max_length=64)]) -> Response:
    found = [each for each in _entries() if each.code.lower() == code.lower()]
    if not found:
        raise NotFound(
            f"No error has the code {code!r}.", next_step="look at the list of all codes."
        )
    return page(request, "error_codes.html", entries=found, code=found[0].code)


@cache
def _entries() -> tuple[Entry, ...]:
    return error_page.entries(error_page.page_path().read_text())

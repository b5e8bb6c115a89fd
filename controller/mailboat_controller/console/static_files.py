"""Scripts, styles and pictures: read once, known by their content, so browsers keep them."""

import hashlib
from functools import cache
from importlib import resources
from typing import NamedTuple

from fastapi import APIRouter, Request, Response

from mailboat_controller.api.etags import answer
from mailboat_schemas.errors import NotFound

TYPES = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "txt": "text/plain; charset=utf-8",
}
# An address carries its content's hash, so what is behind it never changes.
KEPT = "public, max-age=31536000, immutable"

router = APIRouter()


class StaticFile(NamedTuple):
    content: bytes
    sha256: str
    media_type: str


@cache
def files() -> dict[str, StaticFile]:
    """By path below ``static/``."""
    found: dict[str, StaticFile] = {}
    root = resources.files("mailboat_controller.console") / "static"
    for prefix, folder in (("", root), ("vendor/", root / "vendor")):
        for each in folder.iterdir():
            media_type = TYPES.get(each.name.rpartition(".")[2])
            if media_type is not None:
                content = each.read_bytes()
                digest = hashlib.sha256(content).hexdigest()
                found[prefix + each.name] = StaticFile(content, digest, media_type)
    return found


def address(name: str) -> str:
    """What a template writes for ``static/name``; an unknown one is a bug that shows at once."""
    return f"/console/static/{name}?v={files()[name].sha256[:12]}"


@router.get("/static/{name:path}")
def static_file(name: str, request: Request) -> Response:
    """Open to everybody: the login page needs them, and they are in every copy of the program."""
    file = files().get(name)
    if file is None:
        raise NotFound(f"There is no file {name[:100]!r}.", next_step="reload the page.")
    return answer(request, file.content, file.sha256, media_type=file.media_type, cache=KEPT)

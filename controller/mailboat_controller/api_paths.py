"""Addresses of the API that are made of names: a name stays within its own part of them.

``a/revoke?`` for a device's name would make another order of the one that was meant.
"""

import re

from mailboat_schemas.errors import NotFound

SHOWN_CHARS_MAX = 200
_PART = re.compile(r"[A-Za-z0-9._@:=+~-]+")


def checked(path: str) -> str:
    """
    Raises:
        NotFound: something in it cannot be a name, so nothing is called so.
    """
    first, *parts = path.split("/")
    if first or any(_PART.fullmatch(part) is None or part in (".", "..") for part in parts):
        raise NotFound(
            f"There is nothing at {path[:SHOWN_CHARS_MAX]!r}: a part of it cannot be a name.",
            next_step="names are lower-case letters, digits and inner hyphens; the noun's `list` "
            "shows those there are.",
        )
    return path

"""Lists a page at a time: a bound on what one answer holds, and a link to the next page.

The link stands in the header ``Link`` (RFC 8288, ``rel="next"``); without one there is no more.
A cursor says where the page before ended, not how many came before: what is added or taken away
meanwhile neither repeats nor hides a row.
"""

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Query, Request, Response

from mailboat_schemas.errors import MalformedPayload

PAGE_ROWS = 100
PAGE_ROWS_MAX = 1000
CURSOR_CHARS_MAX = 1024
LINK = "Link"

Row = TypeVar("Row")
Key = tuple[int | str, ...]

Limit = Annotated[int, Query(ge=1, le=PAGE_ROWS_MAX, description="rows of a page")]
Cursor = Annotated[
    str,
    Query(
        max_length=CURSOR_CHARS_MAX,
        pattern=r"^[A-Za-z0-9_-]*$",
        description="from the link to the next page",
        examples=[""],
    ),
]


class CursorInvalid(MalformedPayload):
    code = "E-CURSOR"

    def __init__(self) -> None:
        super().__init__(
            "This cursor was not made by this list.",
            next_step="follow the links of the answers, or begin again without a cursor.",
        )


class Paging:
    """A dependency: where the page of a list begins, and how long it may be."""

    def __init__(
        self, request: Request, response: Response, after: Cursor = "", limit: Limit = PAGE_ROWS
    ) -> None:
        self._request = request
        self._response = response
        self._after = after
        self._limit = limit

    def cut(self, rows: Sequence[Row], key: Callable[[Row], Key]) -> list[Row]:
        """The page of a whole list, in the order of ``key``, which no two rows share.

        Raises:
            CursorInvalid
        """
        # A database may sort names as a language does ("a-b" after "aa"), where cursors are
        # compared by letter: rows would be left out between two pages.
        rows = sorted(rows, key=key)
        if self._after:
            beyond = _read(self._after)
            try:
                rows = [row for row in rows if key(row) > beyond]
            except TypeError as error:  # it compares other things: a cursor of another list
                raise CursorInvalid from error
        page = list(rows[: self._limit])
        if len(rows) > len(page):
            tell_next(self._request, self._response, after=_written(key(page[-1])))
        return page


Paged = Annotated[Paging, Depends()]


def tell_next(request: Request, response: Response, **changed: object) -> None:
    """Add the link to the next page, which is this one's address with these parameters."""
    address = request.url.remove_query_params(list(changed)).include_query_params(**changed)
    response.headers[LINK] = f'<{address.path}?{address.query}>; rel="next"'


def first_of(
    rows: Sequence[Row], limit: int, request: Request, response: Response, **cursor: Any
) -> Sequence[Row]:
    """Of rows that were asked for with one more than ``limit``: the page, with its link.

    Args:
        cursor: the parameter's name, and what makes its value of the last row.
    """
    page = rows[:limit]
    if len(rows) > limit:
        ((name, value),) = cursor.items()
        tell_next(request, response, **{name: value(page[-1])})
    return page


def _written(key: Key) -> str:
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode().rstrip("=")


def _read(cursor: str) -> Key:
    try:
        found = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (binascii.Error, ValueError, RecursionError) as error:
        raise CursorInvalid from error
    if not isinstance(found, list) or not all(isinstance(each, int | str) for each in found):
        raise CursorInvalid
    return tuple(found)

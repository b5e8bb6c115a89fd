"""How the commands speak: tables for people, tab-separated lines for pipes, JSON for programs.

Errors go to standard error with their code and next step, never with a traceback. NO_COLOR is
respected (rich does so by itself).
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from mailboat_controller.cli import forms
from mailboat_schemas.errors import (
    ArtifactMissing,
    Conflict,
    MailboatError,
    NotFound,
    NotPermitted,
    ServerUnavailable,
    TrustRefused,
)

EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_DIFFERENT = 3
EXIT_NOT_FOUND = 4
EXIT_NOT_PERMITTED = 5
EXIT_CONFLICT = 6
EXIT_ROLLOUT_FAILED = 7
EXIT_TRUST = 8
EXIT_TIMEOUT = 9
EXIT_TRIAL = 10
EXIT_INTERRUPTED = 130  # Ctrl-C, as shells count it

WIDE_PARTS_MAX = 8  # of one value in a wide table; longer ones are in the JSON

EXIT_CODES_HELP = (
    "Exit codes: 0 ok, 1 failure, 2 usage, 3 differences found, 4 not found, 5 not permitted, "
    "6 conflict, 7 rollout failed, 8 signature or trust, 9 no answer in time, 10 trial failed, "
    "130 Ctrl-C."
)


def examples(*commands: str) -> str:
    """An epilog of one command a line; help keeps the lines apart only where one is empty."""
    return "\n\n".join(("For example:", *(f"  {command}" for command in commands)))


_DELIVERIES = {
    "hardware_class": "CLASS",
    "outcome": "CAME AS",
    "count": "TIMES",
    "fetched_bytes": "BYTES FETCHED",
    "whole_bytes": "BYTES OF THE RELEASE",
    "saved_bytes": "SAVED",
}

# The first that fits.
_EXIT_CODES: tuple[tuple[type[MailboatError], int], ...] = (
    (NotFound, EXIT_NOT_FOUND),
    (ArtifactMissing, EXIT_NOT_FOUND),
    (NotPermitted, EXIT_NOT_PERMITTED),
    (Conflict, EXIT_CONFLICT),
    (TrustRefused, EXIT_TRUST),
    (ServerUnavailable, EXIT_TIMEOUT),
    (MailboatError, EXIT_FAILURE),
)


def exit_code_of(error: MailboatError) -> int:
    return next(code for kind, code in _EXIT_CODES if isinstance(error, kind))


def show_error(error: MailboatError, *, as_json: bool) -> None:
    if as_json:
        content = {"code": error.code, "what": error.what, "next_step": error.next_step}
        print(json.dumps(content), file=sys.stderr)
        return
    print(f"error {error.code}: {_lines(error.what)}", file=sys.stderr)
    print(f"  next step: {_lines(error.next_step)}", file=sys.stderr)
    if sys.stderr.isatty():
        print(f"  more: mailboat help {error.code}", file=sys.stderr)


def show_json(content: Any, *, name: Sequence[str] = ()) -> None:
    """The whole answer, for programs: as JSON, YAML or names.

    Args:
        name: keys that together are what a row is called; see `forms.write`.
    """
    text = forms.write(content, name=name)
    if text:  # a list of no names is no line at all
        print(text)


def show_rows(
    rows: Sequence[Mapping[str, Any]],
    columns: Mapping[str, str],
    *,
    as_json: bool,
    name: Sequence[str] = (),
) -> None:
    """Rows under titled columns (key -> title).

    Args:
        name: keys that together are what a row is called; the first column where none is given.
    """
    if as_json:
        show_json(list(rows), name=name or tuple(columns)[:1])
        return
    if forms.current() == forms.Form.WIDE:
        columns = {**columns, **_more_columns(rows, columns)}
    if sys.stdout.isatty():
        _table(rows, columns)
    else:
        print("\t".join(columns.values()))
        for row in rows:
            print("\t".join(_text(row.get(key)) for key in columns))


def say_empty(rows: Sequence[Any], text: str, *, as_json: bool) -> None:
    """Where a person sees an empty list: what it means, and the command to run next."""
    if not rows and not as_json and sys.stdout.isatty():
        print(text)


def _more_columns(
    rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]
) -> Mapping[str, str]:
    """Whatever else the rows have and fits into a cell."""
    more: dict[str, str] = {}
    for row in rows:
        for key, value in row.items():
            if key not in columns and _fits(value):
                more.setdefault(key, key.replace("_", " ").upper())
    return more


def _fits(value: Any) -> bool:
    parts: Sequence[Any] = ()
    match value:
        case dict():
            parts = list(value.values())
        case list() | tuple():
            parts = value
    return len(parts) <= WIDE_PARTS_MAX and not any(
        isinstance(part, dict | list | tuple) for part in parts
    )


def show_deliveries(rows: Sequence[Mapping[str, Any]]) -> None:
    """How a release came to devices; nothing as long as it came to none."""
    if rows:
        print()
        show_rows(rows, _DELIVERIES, as_json=False)


def show_fields(content: Mapping[str, Any], *, as_json: bool) -> None:
    """One thing, a line a field."""
    if as_json:
        show_json(content)
        return
    width = max((len(key) for key in content), default=0)
    for key, value in content.items():
        print(f"{key.replace('_', ' '):<{width}}  {_text(value)}")


def tell(content: Mapping[str, Any], text: str, *, as_json: bool) -> None:
    """The outcome of a command: fields for programs, sentences for people."""
    if as_json:
        show_json(content)
    else:
        print(text)


def say(text: str, *, as_json: bool = False) -> None:
    """A remark for people; programs did not ask for it."""
    if not as_json:
        print(text)


def can_draw() -> bool:
    """Whether standard output is a terminal that knows how to move its cursor."""
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def remark(text: str) -> None:
    """What happens meanwhile, on standard error: it is no part of the answer."""
    print(text, file=sys.stderr)


def _table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> None:
    from rich.console import Console  # slow to import, and pipes do not need it
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in columns.values():
        table.add_column(title, overflow="fold")
    for row in rows:
        # As plain text: what a device says must not be read as markup.
        table.add_row(*(Text(_text(row.get(key))) for key in columns))
    Console().print(table)


def _text(value: Any) -> str:
    match value:
        case None:
            text = "-"
        case bool():
            text = "yes" if value else "no"
        case dict():
            text = ", ".join(f"{key}={_text(part)}" for key, part in value.items()) or "-"
        case list() | tuple():
            text = ", ".join(_text(part) for part in value) or "-"
        case _:
            text = str(value)
    # Control characters from afar could repaint the terminal, or break a line in a pipe.
    return forms.printable(text)


def _lines(text: str) -> str:
    """A message of several lines, without what could repaint a terminal."""
    return "\n".join(forms.printable(line) for line in text.split("\n"))


def plain_text(text: str) -> str:
    """Text that came from elsewhere, without what could repaint a terminal."""
    return _text(text)


def markdown_cell(text: str) -> str:
    """Text from afar as plain words in a table of Markdown."""
    return "".join(f"\\{char}" if char in "\\`*_[]<>|#!" else char for char in plain_text(text))

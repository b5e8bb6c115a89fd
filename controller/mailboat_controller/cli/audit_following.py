"""Pages of the audit log, forwards and backwards, and ``--follow``: entries as they come."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from mailboat_controller.cli import forms, output, watching
from mailboat_schemas.errors import Transient

if TYPE_CHECKING:
    from mailboat_controller.client import ApiClient

FOLLOW_SECONDS = 2.0  # between two looks
PAGE_ROWS = 500
NUMBER_MAX = (1 << 53) - 1  # above every entry

Row = dict[str, Any]


def pages(client: "ApiClient", path: str, after: int, **wanted: Any) -> Iterator[Row]:
    while True:
        rows = client.get(path, after=after, limit=PAGE_ROWS, **wanted)
        yield from rows
        if len(rows) < PAGE_ROWS:
            return
        after = rows[-1]["sequence"]


def newest(client: "ApiClient", count: int, wanted: Mapping[str, Any]) -> list[Row]:
    """The oldest of them first."""
    rows: list[Row] = []
    before = NUMBER_MAX
    while len(rows) < count:
        limit = min(PAGE_ROWS, count - len(rows))
        page = client.get("/v1/audit", before=before, limit=limit, **wanted)
        rows = page + rows
        if len(page) < limit:
            break
        before = page[0]["sequence"]
    return rows


def follow(
    client: "ApiClient",
    after: int | None,
    count: int,
    wanted: Mapping[str, Any],
    columns: Sequence[str],
    *,
    pause: Callable[[float], None] = watching.pause,
) -> NoReturn:
    """A line an entry: the newest ``count`` or what comes after a number, and whatever comes then.

    Ctrl-C ends it; a controller that is away does not.

    Raises:
        Exit: 130 after Ctrl-C. BrokenPipeError: nobody reads.
    """
    is_away = False
    try:
        if after is None:
            after = 0
            for row in newest(client, count, wanted):
                after = _tell(row, columns)
        while True:
            try:
                for row in pages(client, "/v1/audit", after, **wanted):
                    after = _tell(row, columns)
                is_away = False
            except Transient as error:
                if not is_away:
                    output.remark(f"{error.what} It is asked again every {FOLLOW_SECONDS:g} s.")
                is_away = True
            pause(FOLLOW_SECONDS)
    except KeyboardInterrupt:
        raise typer.Exit(output.EXIT_INTERRUPTED) from None


def _tell(row: Row, columns: Sequence[str]) -> int:
    """Print it; returns its number."""
    match forms.current():
        case "json":
            text = json.dumps(row)
        case "yaml":
            text = f"---\n{forms.write(row)}"
        case "name":
            text = forms.write(row, name=("sequence",))
        case _:
            text = "\t".join(output.plain_text(str(row[name])) for name in columns)
    print(text, flush=True)
    return int(row["sequence"])

"""``mailboat-agent db``: the journal's tables, a query, an export. Gives the lines to print."""

import argparse
import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mailboat_agent.journal.inspection_bounds import EXPORTED, QUERY_ROWS, QUERY_ROWS_MAX

CELL_LENGTH_MAX = 60  # of a table for people; --json has it all


def add_parser(commands: Any, config: Path, config_help: str) -> argparse.ArgumentParser:
    """``commands`` is what `add_subparsers` gave."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "db", help="look into the device's journal, read only, also while the agent runs"
    )
    actions = parser.add_subparsers(required=True, metavar="action", dest="action")
    tables = actions.add_parser("tables", help="which tables there are, and how many rows")
    query = actions.add_parser("query", help="one SELECT, bounded in rows and time")
    query.add_argument("statement", metavar="SQL", help="decoded(content) is a row's content")
    query.add_argument(
        "--rows", type=_rows, default=QUERY_ROWS, help="at most; default: %(default)s"
    )
    export = actions.add_parser("export", help="every row of a table, with its content readable")
    export.add_argument("table", choices=sorted(EXPORTED))
    export.add_argument("--format", choices=["ndjson", "csv"], default="ndjson")
    for action in (tables, query, export):
        action.add_argument("--config", type=Path, default=config, help=config_help)
        action.add_argument("--file", type=Path, help="of a journal elsewhere")
    for action in (tables, query):
        action.add_argument("--json", action="store_true", help="one JSON object")
    return parser


def run_db(options: argparse.Namespace, journal: Path) -> Iterator[str]:
    """
    Raises:
        NotFound, QueryRefused, InspectorMissing
    """
    from mailboat_agent.journal.inspection import Inspection  # slow to import

    inspection = Inspection(options.file or journal)
    match options.action:
        case "tables":
            rows = inspection.tables()
            yield from [json.dumps({"tables": rows})] if options.json else _table(rows)
        case "query":
            rows, more = inspection.query(options.statement, options.rows)
            if options.json:
                yield json.dumps({"rows": rows, "more": more})
                return
            yield from _table(rows)
            if more:
                yield f"... and more than these {options.rows}; see --rows"
        case "export":
            exported = inspection.export(options.table)
            yield from map(json.dumps, exported) if options.format == "ndjson" else _csv(exported)


def _rows(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= QUERY_ROWS_MAX:
        raise argparse.ArgumentTypeError(f"it is a number from 1 to {QUERY_ROWS_MAX}")
    return int(text)


def _table(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    if not rows:
        yield "no rows"
        return
    names = list(rows[0])
    cells = [names, *([_cell(row[name]) for name in names] for row in rows)]
    widths = [max(len(line[place]) for line in cells) for place in range(len(names))]
    for line in cells:
        yield "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip()


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    # What a stranger's library has said shall not speak to the terminal.
    text = "".join(each if each.isprintable() else " " for each in text[: CELL_LENGTH_MAX + 1])
    return text if len(text) <= CELL_LENGTH_MAX else text[: CELL_LENGTH_MAX - 3] + "..."


def _csv(rows: Iterator[dict[str, Any]]) -> Iterator[str]:
    """What is nested stands there as JSON."""
    names: list[str] = []
    for row in rows:
        if not names:
            names = list(row)
            yield _csv_line(names)
        yield _csv_line([v if isinstance(v, str) else json.dumps(v) for v in row.values()])


def _csv_line(cells: Sequence[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(cells)
    return line.getvalue()

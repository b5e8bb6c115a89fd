"""``mailboat quarantine``: messages from the broker that could not be taken, and why."""

import base64
from pathlib import Path
from typing import Annotated, Any

import typer

from mailboat_controller.cli import live_names, options, output

app = typer.Typer(
    help="Messages from the broker that could not be taken, and why.",
    epilog=output.examples(
        "mailboat quarantine list --device kiosk-1",
        "mailboat quarantine show 4711 --out message.bin",
        "mailboat help E-TOPIC-MISMATCH",
    ),
    no_args_is_help=True,
)

PAGE_ROWS = 500
ENTRIES_DEFAULT = 100
ENTRIES_MAX = 10_000  # more are not kept
NUMBER_MAX = (1 << 53) - 1  # above every message
PROBLEM_CHARS_MAX = 80
_COLUMNS = {
    "id": "NO",
    "received_at": "RECEIVED",
    "code": "CODE",
    "topic": "TOPIC",
    "problem": "PROBLEM",
}


@app.command("list")
def list_messages(
    device: Annotated[
        str | None,
        typer.Option(
            "--device", help="Only on this device's topics.", autocompletion=live_names.devices
        ),
    ] = None,
    code: Annotated[
        str | None,
        typer.Option("--code", help="Only of this error code, such as E-PAYLOAD-MALFORMED."),
    ] = None,
    entries: Annotated[
        int, typer.Option("--entries", min=1, max=ENTRIES_MAX, help="At most so many.")
    ] = ENTRIES_DEFAULT,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """The newest messages that were set aside, the oldest of them first."""
    rows: list[dict[str, Any]] = []
    before = NUMBER_MAX
    with options.client(connection) as client:
        while len(rows) <= entries:
            limit = min(PAGE_ROWS, entries + 1 - len(rows))
            page = client.get(
                "/v1/quarantine", before=before, limit=limit, device=device, code=code
            )
            rows = page + rows
            if len(page) < limit:
                break
            before = page[0]["id"]
    more, rows = len(rows) > entries, rows[-entries:]
    told = rows if as_json else [_short(row) for row in rows]
    output.show_rows(told, _COLUMNS, as_json=as_json)
    output.say_empty(rows, "Nothing: every message was understood.", as_json=as_json)
    if more:
        output.remark(
            "There are older ones: narrow it with --device or --code, or raise --entries."
        )


@app.command("show")
def show(
    number: Annotated[int, typer.Argument(min=1, help="As the list has it.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Write what is kept of the payload to this file.")
    ] = None,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """One message, with what is kept of its payload."""
    from mailboat_controller.durable_file import replace_durably

    with options.client(connection) as client:
        found: dict[str, Any] = client.get(f"/v1/quarantine/{number}")
    if out is not None:
        replace_durably(out, base64.b64decode(found["payload_base64"]))
        found = {name: value for name, value in found.items() if name != "payload_base64"}
        found["file"] = str(out)
    output.show_fields(found, as_json=as_json)


def _short(row: dict[str, Any]) -> dict[str, Any]:
    problem = row["problem"]
    return {
        **row,
        "problem": problem
        if len(problem) <= PROBLEM_CHARS_MAX
        else f"{problem[: PROBLEM_CHARS_MAX - 1]}…",
    }

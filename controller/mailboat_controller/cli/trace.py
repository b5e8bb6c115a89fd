"""``mailboat trace``: one release's story, from its submission to what devices made of it."""

from typing import Annotated, Any

import typer

from mailboat_controller.cli import options, output

_COLUMNS = {
    "at": "AT",
    "after": "AFTER",
    "what": "WHAT",
    "who": "WHO",
    "subject": "SUBJECT",
    "because": "BECAUSE",
}
BECAUSE_CHARS_MAX = 100


def trace(
    of: Annotated[
        str,
        typer.Argument(help="MODEL@VERSION, a digest, a trace id, or DEVICE/EVENT-ID."),
    ],
    device: Annotated[
        str | None, typer.Option("--device", help="Only what this device told.")
    ] = None,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Show what happened to a release, in order: submission, approvals, manifests, devices."""
    with options.client(connection) as client:
        found = client.get("/v1/traces", of=of, device=device)
    if as_json:
        output.show_json(found)
        return
    steps = found.pop("steps")
    output.show_fields(found, as_json=False)
    print()
    output.show_rows(_told(steps), _COLUMNS, as_json=False)


def _told(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    from datetime import datetime

    rows, before = [], None
    for step in steps:
        at = datetime.fromisoformat(step["at"])
        after = "" if before is None else f"+{(at - before).total_seconds():.1f} s"
        before = at
        rows.append({**step, "after": after, "because": step["because"][:BECAUSE_CHARS_MAX]})
    return rows

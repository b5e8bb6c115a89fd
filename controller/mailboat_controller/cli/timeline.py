"""``mailboat timeline``: one rollout's story: who, what, which threshold, what resumed service."""

from datetime import datetime
from typing import Annotated, Any, Literal

import typer

from mailboat_controller.cli import options, output

_COLUMNS = {
    "after": "AFTER",
    "what": "WHAT",
    "who": "WHO",
    "subject": "SUBJECT",
    "because": "BECAUSE",
    "threshold": "THRESHOLD",
    "resumed": "SERVES NOW",
}
BECAUSE_CHARS_MAX = 80


def timeline(
    rollout: Annotated[str, typer.Argument(help="The rollout.")],
    form: Annotated[
        Literal["table", "json"] | None, typer.Option("--output", "-o", help="table or json.")
    ] = None,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Tell a rollout's story in order: who did what, what tripped, what resumed service."""
    with options.client(connection) as client:
        found = client.get(f"/v1/rollouts/{rollout}/timeline")
    if as_json or form == "json":
        output.show_json(found)
        return
    entries = found.pop("entries")
    resumed = found.pop("resumed")
    found["resumed"] = ", ".join(f"{count} on {version}" for version, count in resumed.items())
    output.show_fields(found, as_json=False)
    print()
    output.show_rows(_told(entries), _COLUMNS, as_json=False)


def _told(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for entry in entries:
        passed = datetime.fromisoformat(entry["at"]) - datetime.fromisoformat(entries[0]["at"])
        rows.append(
            {
                **entry,
                "after": f"+{passed.total_seconds():.1f} s",
                "because": entry["because"][:BECAUSE_CHARS_MAX],
                "resumed": _service(entry["resumed"]),
            }
        )
    return rows


def _service(resumed: dict[str, Any] | None) -> str:
    if resumed is None:
        return ""
    seconds = resumed["seconds"]
    after = "" if seconds is None else f" after {seconds:.1f} s"
    return f"{resumed['version'] or 'nothing'}{after}"

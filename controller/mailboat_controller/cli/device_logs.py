"""``mailboat device logs``: ask a device for its log and read what comes."""

import contextlib
import json
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mailboat_controller.cli import options, output

if TYPE_CHECKING:
    from mailboat_controller.client import ApiClient

POLL_SECONDS = 1.0
PAGE_LINES = 1000
FOLLOW_SECONDS = 600
_COLUMNS = {
    "request": "REQUEST",
    "state": "STATE",
    "asked_at": "ASKED",
    "asked_by": "BY",
    "lines": "LINES",
    "reason": "REASON",
}


def logs(
    device: options.DeviceName,
    reason: options.OptionalReason = "",
    since: Annotated[
        str, typer.Option("--since", help="From here on: 30m, 6h, 2d or a time with its zone.")
    ] = "",
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on with new lines, for ten minutes at most.")
    ] = False,
    hours: Annotated[
        float, typer.Option("--hours", help="How long a device that is away may take.")
    ] = 24,
    wait: Annotated[
        float, typer.Option("--wait", min=0, help="Seconds to wait here for the answer.")
    ] = 60,
    request: Annotated[
        str, typer.Option("--request", help="Read what came for an earlier request.")
    ] = "",
    listed: Annotated[bool, typer.Option("--list", help="What it was asked for so far.")] = False,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Ask a device for its log: it answers at once, or when it comes back."""
    with options.client(connection) as client:
        if listed:
            found = client.get(f"/v1/devices/{device}/logs")
            output.show_rows(found, _COLUMNS, as_json=as_json)
            return
        if not request:
            if not reason:
                raise typer.BadParameter("say why; it is audited", param_hint="--reason")
            order = {
                "reason": reason,
                "since": _since(since),
                "follow_seconds": FOLLOW_SECONDS if follow else 0,
                "hours": hours,
            }
            request = client.post(f"/v1/devices/{device}/logs", order)["request"]
            output.remark(f"Asked {device} (request {request}); it answers once it is connected.")
        seconds = max(wait, FOLLOW_SECONDS) if follow else wait
        state = _print_lines(client, f"/v1/devices/{device}/logs/{request}", seconds, as_json)
    if state in ("waiting", "answering"):
        output.say(
            f"\nNot complete ({state}). Read on later: "
            f"mailboat device logs {device} --request {request}",
            as_json=as_json,
        )


def _print_lines(client: "ApiClient", path: str, seconds: float, as_json: bool) -> str:
    """Whatever comes until it is complete or the time is over; the state then."""
    after, ends_at = 0, time.monotonic() + seconds
    while True:
        found = client.get(path, after=after, limit=PAGE_LINES)
        for line in found["page"]:
            print(json.dumps(line) if as_json else _text(line), flush=True)
            after = line["number"]
        if len(found["page"]) == PAGE_LINES:
            continue
        if found["state"] in ("complete", "expired") or time.monotonic() >= ends_at:
            if found["withheld"]:
                output.say(f"({found['withheld']} lines were too many to keep)", as_json=as_json)
            return str(found["state"])
        time.sleep(POLL_SECONDS)


def _text(line: dict[str, Any]) -> str:
    """A device may say anything: nothing of it moves the terminal or looks like another line."""
    from datetime import UTC, datetime, timedelta

    at = datetime(1970, 1, 1, tzinfo=UTC)
    with contextlib.suppress(OverflowError):  # a clock before the year 1
        at += timedelta(milliseconds=line["at"])
    first, *more = line["message"].split("\n")
    said = [f"{line['level']:<7} {first}", *(f"    {each}" for each in more)]
    text = "\n".join(output.plain_text(each) for each in said)
    return f"{at.isoformat(timespec='milliseconds')} {text}"


def _since(text: str) -> str | None:
    """As the API takes it: an instant with its zone."""
    from datetime import datetime, timedelta

    if not text:
        return None
    units = {"m": "minutes", "h": "hours", "d": "days"}
    try:
        if text[-1] in units:
            return (options.now() - timedelta(**{units[text[-1]]: float(text[:-1])})).isoformat()
        instant = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        instant = None
    if instant is None or instant.tzinfo is None:
        raise typer.BadParameter(f"{text!r}: write 30m, 6h, 2d or 2026-11-21T12:00+00:00")
    return instant.isoformat()

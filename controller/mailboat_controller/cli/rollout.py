"""``mailboat rollout``: how far rollouts are, and the orders a person can give."""

from pathlib import Path
from typing import Annotated, Any

import typer

from mailboat_controller.cli import options, output

app = typer.Typer(
    help="Rollouts: status, start, promote, pause, resume, abort, undo.",
    epilog=output.examples(
        "mailboat rollout status heat-1-0-0",
        'mailboat rollout pause heat-1-0-0 --reason "a storm is coming"',
    ),
    no_args_is_help=True,
)

_COLUMNS = {
    "name": "ROLLOUT",
    "model": "MODEL",
    "version": "VERSION",
    "phase": "PHASE",
    "because": "BECAUSE",
}
_COUNTS = ("devices", "eligible", "not_open", "waiting", "in_progress", "ok", "failed")
_CLASS_COLUMNS = {
    "hardware_class": "CLASS",
    **{name: name.replace("_", " ").upper() for name in _COUNTS},
    "excluded": "EXCLUDED",
}
_FAILED_PHASES = frozenset({"halted", "aborted"})


@app.command("list")
def list_rollouts(
    connection: options.ConnectionOption = None, as_json: options.Json = False
) -> None:
    """All rollouts, oldest first."""
    with options.client(connection) as client:
        output.show_rows(client.get("/v1/rollouts"), _COLUMNS, as_json=as_json)


@app.command("status")
def status(
    name: Annotated[str, typer.Argument(help="The rollout.")],
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit with 7 when it is halted or aborted.")
    ] = False,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Phase, reason, and per class the counts that add up."""
    with options.client(connection) as client:
        found = client.get(f"/v1/rollouts/{name}")
    _show(found, as_json=as_json)
    if exit_code and found["phase"] in _FAILED_PHASES:
        raise typer.Exit(output.EXIT_ROLLOUT_FAILED)


@app.command("start")
def start(
    name: Annotated[str, typer.Argument(help="The rollout.")],
    reason: options.Reason,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Start a planned rollout."""
    _order(connection, name, "start", reason, as_json=as_json)


@app.command("promote")
def promote(
    name: Annotated[str, typer.Argument(help="The rollout.")],
    reason: options.Reason,
    wave: Annotated[
        int | None,
        typer.Option("--wave", min=1, help="The wave you looked at; refused when it is over."),
    ] = None,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Open the next wave in place of the gate; who did and why is kept."""
    _order(connection, name, "promote", reason, as_json=as_json, wave=wave)


@app.command("pause")
def pause(
    name: Annotated[str, typer.Argument(help="The rollout.")],
    reason: options.Reason,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Let nobody new in; those who are in go on."""
    _order(connection, name, "pause", reason, as_json=as_json)


@app.command("resume")
def resume(
    name: Annotated[str, typer.Argument(help="The rollout.")],
    reason: options.Reason,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Go on with a paused rollout."""
    _order(connection, name, "resume", reason, as_json=as_json)


@app.command("abort")
def abort(
    name: Annotated[str, typer.Argument(help="The rollout.")],
    reason: options.Reason,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Take a rollout back for good: its devices return to what they ran before."""
    _order(connection, name, "abort", reason, as_json=as_json)


@app.command("undo")
def undo(
    name: Annotated[str, typer.Argument(help="The rollout.")],
    reason: options.Reason,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Take a completed rollout back: the release before it is current again."""
    _order(connection, name, "undo", reason, as_json=as_json)


def _order(
    connection: Path | None,
    name: str,
    verb: str,
    reason: str,
    *,
    as_json: bool,
    wave: int | None = None,
) -> None:
    order = {"reason": reason} if wave is None else {"reason": reason, "wave": wave}
    with options.client(connection) as client:
        found = client.post(f"/v1/rollouts/{name}/{verb}", order)
    _show(found, as_json=as_json)


def _show(found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        output.show_json(found)
        return
    classes, came = found.pop("classes", {}), found.pop("deliveries", [])
    shown = {key: found.get(key) for key in _COLUMNS}
    shown["waves_open"] = f"{found['waves_open']} of {found['waves']}"
    output.show_fields(shown, as_json=False)
    rows = [{"hardware_class": name, **counts} for name, counts in classes.items()]
    print()
    output.show_rows(rows, _CLASS_COLUMNS, as_json=False)
    output.show_deliveries(came)

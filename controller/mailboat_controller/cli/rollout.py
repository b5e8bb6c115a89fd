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
_DONE_PHASES = frozenset({"completed", "superseded"})
_FAILED_PHASES = frozenset({"halted", "aborted"})


@app.command("list")
def list_rollouts(
    connection: options.ConnectionOption = None, as_json: options.Json = False
) -> None:
    """All rollouts, oldest first."""
    with options.client(connection) as client:
        rows = client.get("/v1/rollouts")
    output.show_rows(rows, _COLUMNS, as_json=as_json)
    output.say_empty(rows, "No rollout yet: `mailboat release approve` plans one.", as_json=as_json)


@app.command("show")
@app.command("status")
def status(
    name: options.RolloutName,
    exit_code: Annotated[
        bool,
        typer.Option(
            "--exit-code",
            help="Exit with 7 when it is halted or aborted; with --watch also with 0 at its end.",
        ),
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
    if exit_code and found["phase"] in _DONE_PHASES:
        raise typer.Exit  # ends a watch


# Verb -> what it does.
_ORDERS = {
    "start": "Start a planned rollout.",
    "pause": "Let nobody new in; those who are in go on.",
    "resume": "Go on with a paused rollout.",
    "abort": "Take a rollout back for good: its devices return to what they ran before.",
    "undo": "Take a completed rollout back: the release before it is current again.",
}


def _add_order(verb: str, text: str) -> None:
    @app.command(verb, help=text)
    def order(
        name: options.RolloutName,
        reason: options.Reason,
        connection: options.ConnectionOption = None,
        as_json: options.Json = False,
    ) -> None:
        _order(connection, name, verb, reason, as_json=as_json)


for _verb, _text in _ORDERS.items():
    _add_order(_verb, _text)


@app.command("promote")
def promote(
    name: options.RolloutName,
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
    if found.get("emergency"):
        shown["emergency"] = (
            f"{found['emergency']} (no window, cadence or metered link is waited for)"
        )
    output.show_fields(shown, as_json=False)
    rows = [{"hardware_class": name, **counts} for name, counts in classes.items()]
    print()
    output.show_rows(rows, _CLASS_COLUMNS, as_json=False)
    output.show_deliveries(came)

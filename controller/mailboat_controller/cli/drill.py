"""``mailboat drill``: devices prove that they could go back, and expose nobody."""

from typing import Annotated, Any, Literal

import typer

from mailboat_controller.cli import device_orders, options, output
from mailboat_controller.cli.progress import in_turn

app = typer.Typer(
    help="Rollback drills: devices prove that they could go back, and expose nobody.",
    epilog=output.examples(
        "mailboat drill start kiosk-1 --reason 'before the holidays'",
        "mailboat drill start -l site=harbour --model vad --reason 'before the holidays'",
        "mailboat drill list --outcome failed",
    ),
    no_args_is_help=True,
)
Outcome = Literal["passed", "failed", "skipped"]  # as `mailboat_schemas.drills` has them
_COLUMNS = {
    "device": "DEVICE",
    "model": "MODEL",
    "outcome": "DRILL",
    "version": "BACK TO",
    "return_ms": "MS",
    "passed_at": "LAST PASSED",
    "code": "CODE",
    "because": "BECAUSE",
}
_ORDERS = {
    "order": "ORDER",
    "device": "DEVICE",
    "model": "MODEL",
    "state": "STATE",
    "expires_at": "UNTIL",
    "reason": "REASON",
}


@app.command("start")
def start(
    reason: options.Reason,
    device: device_orders.Device = None,
    selector: options.SelectorOption = "",
    model: device_orders.Model = None,
    hours: Annotated[
        float, typer.Option("--hours", help="A device that has not drilled by then skips it.")
    ] = 24,
    yes: device_orders.Yes = False,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Have devices try the release before the one that serves, and make it ready to take over."""
    wish = {"reason": reason, "model": model, "hours": hours}
    with options.client(connection) as client:
        names = device_orders.named(client, device, selector, yes=yes)
        found = [
            client.post(f"/v1/devices/{name}/drill", wish)
            for name in in_turn(names, "drill", shown=not as_json)
        ]
    output.show_rows(found, _ORDERS, as_json=as_json)


@app.command("status")
def status(
    device: options.DeviceName,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """What was ordered of one device, and how its newest drills ended."""
    with options.client(connection) as client:
        found: dict[str, Any] = client.get(f"/v1/devices/{device}/drills")
    if as_json:
        output.show_json(found)
        return
    output.show_rows(found["orders"], _ORDERS, as_json=False)
    output.show_rows(found["results"], _COLUMNS, as_json=False)


@app.command("list")
def list_drills(
    outcome: Annotated[
        Outcome | None, typer.Option("--outcome", help="Those that ended like this.")
    ] = None,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """The newest drill of every device and model."""
    found: list[dict[str, Any]] = []
    with options.client(connection) as client:
        while True:
            page = client.get(
                "/v1/drills",
                after=f"{found[-1]['device']}/{found[-1]['model']}" if found else None,
                outcome=outcome,
            )
            if not page:
                break
            found += page
    output.show_rows(found, _COLUMNS, as_json=as_json)


@app.command("cancel")
def cancel(
    reason: options.Reason,
    device: device_orders.Device = None,
    selector: options.SelectorOption = "",
    yes: device_orders.Yes = False,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Take back what waits; a drill that runs is given up."""
    with options.client(connection) as client:
        names = device_orders.named(client, device, selector, yes=yes)
        found = [
            client.post(f"/v1/devices/{name}/cancel-drill", {"reason": reason})
            for name in in_turn(names, "cancel", shown=not as_json)
        ]
    orders = [order for each in found for order in each["orders"]]
    output.show_rows(orders, _ORDERS, as_json=as_json)

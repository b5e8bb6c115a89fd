"""``mailboat get``: devices by what they are and what they run."""

from typing import Annotated

import typer

from mailboat_controller.cli import options, output

app = typer.Typer(
    help="Find devices with a selector.",
    epilog=output.examples(
        "mailboat get devices --running vad@1.2.0 -l 'site in (harbour,depot)'",
        "mailboat get devices -l 'class=kiosk-x86,presence=offline,region!=eu'",
    ),
    no_args_is_help=True,
)

_COLUMNS = {
    "device": "DEVICE",
    "hardware_class": "CLASS",
    "site": "SITE",
    "presence": "PRESENCE",
    "running": "RUNNING",
    "last_seen_at": "LAST SEEN",
}


@app.callback()
def get() -> None:
    """Find devices with a selector."""


@app.command("devices")
def get_devices(
    running: Annotated[
        str | None, typer.Option("--running", help="A model, or a release: vad@1.2.0.")
    ] = None,
    stale: Annotated[
        bool, typer.Option("--stale", help="Further behind than policy allows.")
    ] = False,
    selector: options.SelectorOption = "",
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """The devices that a selector names, by enrolment."""
    wanted = ",".join(
        filter(None, (selector, f"running={running}" if running else "", "stale" if stale else ""))
    )
    with options.client(connection) as client:
        rows = list(client.pages("/v1/devices", "enrolment_number", selector=wanted or None))
    for row in rows:
        models = (row["report"] or {}).get("models", ())
        row["running"] = [
            f"{model['model']}@{model['serving_version']}"
            for model in models
            if model["serving_version"]
        ]
    output.show_rows(rows, _COLUMNS, as_json=as_json)

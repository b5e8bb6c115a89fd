"""``mailboat device``: kits, the fleet's devices, letting one in and cutting one off."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from mailboat_controller.cli import live_names, options, output
from mailboat_controller.durable_file import replace_durably

app = typer.Typer(
    help="Devices: kits, approval, state, revocation.",
    epilog=output.examples(
        "mailboat device enroll-token --class kiosk-x86 --out kit.json",
        'mailboat device revoke kiosk-1 --reason "stolen from the lobby"',
    ),
    no_args_is_help=True,
)

EVENTS_SHOWN = 20
PENDING_SHOWN = 1000
_COLUMNS = {
    "device": "DEVICE",
    "hardware_class": "CLASS",
    "site": "SITE",
    "presence": "PRESENCE",
    "running": "RUNNING",
    "last_seen_at": "LAST SEEN",
    "revoked": "REVOKED",
}
_PENDING_COLUMNS = {
    "device": "DEVICE",
    "hardware_class": "CLASS",
    "site": "SITE",
    "requested_at": "SINCE",
    "fingerprint": "FINGERPRINT",
}
_EVENT_COLUMNS = {
    "received_at": "RECEIVED",
    "kind": "EVENT",
    "model": "MODEL",
    "version": "VERSION",
}


WaitingName = Annotated[
    str, typer.Argument(help="The device's id.", autocompletion=live_names.pending)
]


@app.command("enroll-token")
def enroll_token(
    hardware_class: Annotated[
        str,
        typer.Option("--class", help="Hardware class.", autocompletion=live_names.classes),
    ],
    out: Annotated[Path, typer.Option("--out", help="File for the kit; it holds a secret.")],
    site: Annotated[
        str,
        typer.Option(
            "--site",
            help="Site; - connects to the centre.",
            autocompletion=live_names.sites,
        ),
    ] = "-",
    label: Annotated[
        list[str] | None, typer.Option("--label", help="name=value; may be repeated.")
    ] = None,
    uses: Annotated[int, typer.Option(min=1, help="How many devices may use it.")] = 1,
    hours: Annotated[float, typer.Option(help="How long it is good.")] = 24,
    approval: Annotated[
        bool, typer.Option("--approval", help="A person approves each device.")
    ] = False,
    reason: options.OptionalReason = "",
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Make an enrolment kit: a file that a person hands to a device."""
    import json

    order = {
        "hardware_class": hardware_class,
        "site": site,
        "labels": options.labels(label or []),
        "uses": uses,
        "hours": hours,
        "approval": approval,
        "reason": reason,
    }
    with options.client(connection) as client:
        kit = client.post("/v1/enrolment-tokens", order)
    _write_kit(out, json.dumps(kit, indent=2).encode() + b"\n")
    content = {"kit": str(out), "hardware_class": hardware_class, "uses": uses, "hours": hours}
    output.show_fields(content, as_json=as_json)
    output.say(f"\nOn the device: mailboat-agent enroll --kit {out.name} …", as_json=as_json)
    if approval:
        output.say("Then here: mailboat device list --pending", as_json=as_json)


@app.command("list")
def list_devices(
    hardware_class: options.ClassOption = None,
    site: options.SiteOption = None,
    running: Annotated[
        str | None,
        typer.Option(
            "--running",
            help="A model, or a release: vad@1.2.0.",
            autocompletion=live_names.releases,
        ),
    ] = None,
    stale: Annotated[
        bool, typer.Option("--stale", help="Further behind than policy allows.")
    ] = False,
    selector: options.SelectorOption = "",
    pending: Annotated[
        bool, typer.Option("--pending", help="Those that wait for approval instead.")
    ] = False,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """The devices that a selector names, or all of them; by enrolment."""
    wanted = ",".join(
        filter(None, (selector, f"running={running}" if running else "", "stale" if stale else ""))
    )
    with options.client(connection) as client:
        if pending:
            waiting = client.get("/v1/devices/pending", limit=PENDING_SHOWN)
            output.show_rows(waiting, _PENDING_COLUMNS, as_json=as_json)
            return
        pages = client.pages(
            "/v1/devices",
            "enrolment_number",
            hardware_class=hardware_class,
            site=site,
            selector=wanted or None,
        )
        rows = [{**row, "running": _running(row)} for row in pages]
    output.show_rows(rows, _COLUMNS, as_json=as_json)
    if not wanted:
        output.say_empty(
            rows, "No device yet: `mailboat device enroll-token` makes a kit.", as_json=as_json
        )


def _running(row: dict[str, Any]) -> list[str]:
    return [
        f"{model['model']}@{model['serving_version']}"
        for model in (row["report"] or {}).get("models", ())
        if model["serving_version"]
    ]


@app.command("show")
def show(
    device: options.DeviceName,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """What a device last said, and its newest state events."""
    with options.client(connection) as client:
        found = client.get(f"/v1/devices/{device}")
        events = list(client.pages(f"/v1/devices/{device}/events", "id"))[-EVENTS_SHOWN:]
    if as_json:
        output.show_json({**found, "events": events})
        return
    report = found.pop("report") or {}
    output.show_fields(found, as_json=False)
    for model in report.get("models", ()):
        serving = model.get("serving_version") or "nothing"
        because = f" ({model['because']})" if model.get("because") else ""
        print(f"model {model['model']}: serves {serving}, {model['phase']}{because}")
        print(f"  last good inference: {answered(model)}")
        if drill := model.get("drill"):
            why = f" ({drill['code']})" if drill.get("code") else ""
            print(f"  rollback drill to {drill['version'] or 'nothing'}: {drill['outcome']}{why}")
    for line in config_lines(report.get("config")):
        print(output.plain_text(line))
    for line in site_order_lines(report.get("site_order")):
        print(output.plain_text(line))
    if events:
        print()
        output.show_rows(events, _EVENT_COLUMNS, as_json=False)


def answered(model: dict[str, Any]) -> str:
    """When it last answered, by the device's clock, as its report says."""
    at = model.get("answered_at")
    if at is None:
        return "not told"
    if not at:
        return "none since its agent began"
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%SZ}"


def site_order_lines(said: dict[str, Any] | None) -> Iterator[str]:
    """What stands that the device's site has ordered; nothing where nothing does."""
    if said is None:
        return
    yield f"order {said['counter']} of site {said['site']}, signed by {said['key']}:"
    for each in said["holds"]:
        yield f"  hold {each['model'] or 'every model'}: {each['reason']}"
    for each in said["rollbacks"]:
        yield f"  {each['model']} back to {each['version']}: {each['reason']}"


def config_lines(config: dict[str, Any] | None) -> Iterator[str]:
    """What a device says of its config; nothing where nobody signed one for it."""
    if config is None:
        return
    merged = ", ".join(_layer(each) for each in config["layers"]) or "none"
    yield f"config {config['digest'][:12]}: {merged}"
    if config["waiting"]:
        yield f"config waits: {', '.join(_layer(each) for each in config['waiting'])}"
    if config["because"]:
        yield f"  {config['because']}"


def _layer(layer: dict[str, Any]) -> str:
    return f"{layer['name']} {layer['version']} ({layer['level']})"


@app.command("approve")
def approve(
    device: WaitingName,
    fingerprint: Annotated[
        str, typer.Option("--fingerprint", help="As the device shows it; compare it there.")
    ],
    reason: Annotated[str, typer.Option("--reason", help="For the audit log.")] = "",
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Let a waiting device in."""
    order = {"fingerprint": fingerprint, "reason": reason}
    with options.client(connection) as client:
        found = client.post(f"/v1/devices/{device}/approve", order)
    output.show_fields({key: found[key] for key in ("device", "state")}, as_json=as_json)


@app.command("reject")
def reject(
    device: WaitingName,
    reason: options.Reason,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Keep a waiting device out."""
    with options.client(connection) as client:
        found = client.post(f"/v1/devices/{device}/reject", {"reason": reason})
    output.show_fields({key: found[key] for key in ("device", "state")}, as_json=as_json)


@app.command("revoke")
def revoke(
    device: options.DeviceName,
    reason: options.Reason,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Cut a device off for good: at the API at once, at the broker within seconds."""
    with options.client(connection) as client:
        found = client.post(f"/v1/devices/{device}/revoke", {"reason": reason})
    output.show_fields({key: found[key] for key in ("device", "revoked")}, as_json=as_json)


def _write_kit(out: Path, content: bytes) -> None:
    if out.parent == Path("/dev"):  # stdout: nothing to put in its place
        out.write_bytes(content)
    else:
        # A new file in the place of one that is there: somebody may own that, or hold it open.
        replace_durably(out, content)

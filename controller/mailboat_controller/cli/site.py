"""``mailboat site``: islands with a broker of their own."""

import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mailboat_controller.cli import live_names, options, output, site_order
from mailboat_controller.sites.queue_size import DAYS_DEFAULT, DAYS_MAX, DEVICES_MAX

if TYPE_CHECKING:
    from mailboat_controller.client import ApiClient

app = typer.Typer(
    help="Sites: brokers of their own, their links to the centre, their kits.",
    epilog=output.examples(
        "mailboat site add harbour --broker-host broker.harbour.example --policy normal",
        "mailboat site kit harbour --out harbour.tar",
    ),
    no_args_is_help=True,
)
site_order.add_to(app)

Policy = Literal["normal", "expected", "error"]  # as `sites/policy.py` has them
NOTHING = "none"  # takes away what was set
_WINDOW = re.compile(r"(?:(?P<days>\S+) +)?(?P<start>\d\d:\d\d) +(?P<hours>\d+(?:\.\d+)?)h")
_COLUMNS = {
    "name": "SITE",
    "link": "LINK",
    "link_since": "SINCE",
    "policy": "A CUT IS",
    "devices": "DEVICES",
    "last_heard_at": "LAST HEARD",
    "certificate_expires_at": "CERTIFICATE ENDS",
}


def _a_name(text: str) -> str:
    from mailboat_schemas.names import is_label

    if not is_label(text):  # it stands in the path of a request
        raise typer.BadParameter(f"{text!r}: lower-case letters, digits and inner hyphens")
    return text


SiteName = Annotated[
    str, typer.Argument(help="The site's name.", callback=_a_name, autocompletion=live_names.sites)
]
PolicyOption = Annotated[
    Policy | None,
    typer.Option(
        "--policy", help="What a cut of its link is: normal, expected at times, or an error."
    ),
]
UntilOption = Annotated[
    str | None,
    typer.Option("--until", help="A cut is expected until then (ISO 8601, UTC), or none."),
]
WindowOption = Annotated[
    list[str] | None,
    typer.Option(
        "--window",
        help="A cut is expected in it: 'mon,tue 22:00 8h' or '22:00 8h' for each day, UTC; "
        "may be repeated; or none.",
    ),
]
PortOption = Annotated[
    int | None, typer.Option("--broker-port", min=1, max=65535, help="Of the site's broker.")
]
CacheOption = Annotated[
    str | None, typer.Option("--cache-url", help="https://… of its cache of artifacts, or none.")
]
LabelOption = Annotated[
    list[str] | None, typer.Option("--label", help="name=value; may be repeated; or none.")
]


@app.command("add")
def add(
    name: SiteName,
    broker_host: Annotated[
        str, typer.Option("--broker-host", help="By which its devices reach its broker.")
    ],
    policy: PolicyOption = None,
    until: UntilOption = None,
    window: WindowOption = None,
    broker_port: PortOption = None,
    cache_url: CacheOption = None,
    label: LabelOption = None,
    reason: options.OptionalReason = "",
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Make a site known to the controller. Without --policy a cut of its link is an error."""
    order = _given(policy, until, window, broker_port, cache_url, label, reason)
    order |= {"name": name, "broker_host": broker_host}
    _show(lambda client: client.post("/v1/sites", order), connection, as_json=as_json)
    output.say(f"\nOn the controller's machine: mailboat site kit {name} …", as_json=as_json)


@app.command("change")
def change(
    name: SiteName,
    broker_host: Annotated[
        str | None, typer.Option("--broker-host", help="By which its devices reach its broker.")
    ] = None,
    policy: PolicyOption = None,
    until: UntilOption = None,
    window: WindowOption = None,
    broker_port: PortOption = None,
    cache_url: CacheOption = None,
    label: LabelOption = None,
    reason: options.OptionalReason = "",
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Change what is given; the rest stays."""
    order = _given(policy, until, window, broker_port, cache_url, label, reason)
    if broker_host is not None:
        order["broker_host"] = broker_host
    _show(lambda client: client.patch(f"/v1/sites/{name}", order), connection, as_json=as_json)


@app.command("list")
def list_sites(connection: options.ConnectionOption = None, as_json: options.Json = False) -> None:
    """Every site, and how the link to it stands."""
    with options.client(connection) as client:
        rows = client.get("/v1/sites")
    output.show_rows(rows, _COLUMNS, as_json=as_json)


@app.command("show")
def show(
    name: SiteName,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """One site: its link, its policy, its addresses."""
    _show(lambda client: client.get(f"/v1/sites/{name}"), connection, as_json=as_json)


@app.command("remove")
def remove(
    name: SiteName,
    reason: options.Reason,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Forget a site that has no devices any more, and cut its bridge off."""
    with options.client(connection) as client:
        client.post(f"/v1/sites/{name}/remove", {"reason": reason})
    output.show_fields({"name": name, "removed": True}, as_json=as_json)


@app.command("kit")
def kit(
    name: SiteName,
    out: Annotated[Path, typer.Option("--out", help="The archive; it holds keys.")],
    devices: Annotated[
        int,
        typer.Option(min=0, max=DEVICES_MAX, help="To make its queue for; 0: by those enrolled."),
    ] = 0,
    days: Annotated[
        int, typer.Option(min=1, max=DAYS_MAX, help="The longest cut to make its queue for.")
    ] = DAYS_DEFAULT,
    memory_mib: Annotated[
        int, typer.Option(min=16, max=1 << 20, help="What its queue may take.")
    ] = 1024,
    install_dir: Annotated[
        str, typer.Option(help="Where the kit is unpacked.")
    ] = "/etc/mailboat-site",
    data_dir: Annotated[
        str, typer.Option(help="What its broker and cache write.")
    ] = "/var/lib/mailboat-site",
    listen: Annotated[str, typer.Option(help="The address its broker listens on.")] = "0.0.0.0",  # noqa: S104  devices come from the site's network
    run_as: Annotated[str, typer.Option("--user", help="Who runs its broker.")] = "mosquitto",
    config: options.ConfigOption = options.DEFAULT_CONFIG,
    as_json: options.Json = False,
) -> None:
    """Make the archive that a site operator runs. Needs the controller's data directory."""
    from mailboat_controller.config import load
    from mailboat_controller.sites.kit import KitWishes, make_kit

    made = make_kit(
        load(config),
        name,
        out,
        KitWishes(
            install_dir=install_dir,
            data_dir=data_dir,
            listen=listen,
            run_as=run_as,
            devices=devices,
            days=days,
            memory_mib=memory_mib,
        ),
        actor=options.local_actor(),
        now=options.now(),
    )
    content = {
        "kit": str(made.path),
        "certificate_expires_at": made.bridge_expires_at.isoformat(),
        "queue_messages": made.queue_messages,
        "queue_mib": made.queue_mib,
        "queue_days": round(made.held_days, 1),
    }
    output.show_fields(content, as_json=as_json)
    output.say("\nIt holds private keys. Its README.md has the next steps.", as_json=as_json)


def _given(
    policy: Policy | None,
    until: str | None,
    windows: list[str] | None,
    broker_port: int | None,
    cache_url: str | None,
    labels: list[str] | None,
    reason: str,
) -> dict[str, Any]:
    """What was said, as the API takes it."""
    order: dict[str, Any] = {"reason": reason}
    if policy is not None:
        order["policy"] = policy
    if until is not None:
        order["expected_until"] = None if until == NOTHING else _instant(until)
    if windows:
        order["windows"] = [] if windows == [NOTHING] else [_window(each) for each in windows]
    if broker_port is not None:
        order["broker_port"] = broker_port
    if cache_url is not None:
        order["cache_url"] = "" if cache_url == NOTHING else cache_url
    if labels:
        order["labels"] = {} if labels == [NOTHING] else options.labels(labels)
    return order


def _instant(text: str) -> str:
    from datetime import UTC

    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r}: write it like 2031-12-24T18:00", param_hint="--until"
        ) from None
    return (instant if instant.tzinfo else instant.replace(tzinfo=UTC)).isoformat()


def _window(text: str) -> dict[str, Any]:
    found = _WINDOW.fullmatch(text.strip())
    if found is None:
        raise typer.BadParameter(
            f"{text!r}: write it like 'sat,sun 08:00 12h'", param_hint="--window"
        )
    window: dict[str, Any] = {"start": found["start"], "minutes": round(float(found["hours"]) * 60)}
    if found["days"]:
        window["days"] = found["days"].split(",")
    return window


def _show(
    ask: Callable[["ApiClient"], dict[str, Any]], connection: Path | None, *, as_json: bool
) -> None:
    """Show the site that an answer is about."""
    with options.client(connection) as client:
        found = ask(client)
    windows = [
        f"{','.join(each['days'])} {each['start']} {each['minutes'] / 60:g}h"
        for each in found["windows"]
    ]
    output.show_fields({**found, "windows": windows}, as_json=as_json)

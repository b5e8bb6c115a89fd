"""``mailboat site hold|rollback|lift|publish``: a site acts alone, with its own key.

None of them asks the controller. An order is a file: the newest says all that stands.
"""

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mailboat_controller.cli import options, output
from mailboat_schemas.errors import ConfigurationInvalid

if TYPE_CHECKING:
    from mailboat_schemas.site_orders import SiteOrder

HOURS = 72.0
# As `mailboat_schemas.site_orders` has them.
HOURS_MAX = 14 * 24
COUNTER_MAX = (1 << 63) - 1
BROKER_PORT = 8883


def _a_label(text: str) -> str:
    from mailboat_schemas.names import is_label

    if text and not is_label(text):
        raise typer.BadParameter(f"{text!r}: lower-case letters, digits and inner hyphens")
    return text


Site = Annotated[str, typer.Argument(help="The site's name.", callback=_a_label)]
Key = Annotated[
    str, typer.Option("--key", help="Of the site: a path, fd:N, env:NAME or pkcs11:… .")
]
Out = Annotated[
    Path,
    typer.Option("--out", help="The order. Where it is there already, the next one is made."),
]
Fleet = Annotated[
    str, typer.Option("--fleet", help="Its name, for the first order.", callback=_a_label)
]
Model = Annotated[
    str, typer.Option("--model", help="This model alone.", callback=_a_label, show_default=False)
]
After = Annotated[
    int,
    typer.Option(
        "--after",
        min=0,
        max=COUNTER_MAX - 1,
        help="Where the file was lost: the counter of the newest order, as a device says it.",
        show_default=False,
    ),
]
Hours = Annotated[
    float, typer.Option("--hours", min=0.1, max=HOURS_MAX, help="It ends by itself after these.")
]
Why = Annotated[str, typer.Option("--reason", help="Why; devices show it, and the audit log.")]


def hold(
    site: Site,
    key: Key,
    reason: Why,
    out: Out,
    fleet: Fleet = "",
    after: After = 0,
    model: Model = "",
    hours: Hours = HOURS,
    as_json: options.Json = False,
) -> None:
    """Nothing new is installed at a site, by order of the site itself."""
    from mailboat_controller.sites import own_orders
    from mailboat_schemas.site_orders import SiteHold

    now = options.now()
    before = own_orders.order_before(out, fleet, site, after=after)
    item = SiteHold(model=model or None, reason=_reason(reason), expires=_until(hours))
    order = own_orders.next_order(before, now=now, holds=own_orders.with_hold(before, item))
    _write(out, order, key, as_json=as_json)


def rollback(
    site: Site,
    release: Annotated[str, typer.Argument(help="MODEL@VERSION, as it ran there before.")],
    key: Key,
    reason: Why,
    out: Out,
    fleet: Fleet = "",
    after: After = 0,
    hours: Hours = HOURS,
    as_json: options.Json = False,
) -> None:
    """Devices of a site that have this release on their disks go back to it, and stay there."""
    from pydantic import ValidationError

    from mailboat_controller.sites import own_orders
    from mailboat_schemas.site_orders import SiteRollback

    model, _, version = release.partition("@")
    try:
        item = SiteRollback(
            model=model, version=version, reason=_reason(reason), expires=_until(hours)
        )
    except ValidationError:
        raise typer.BadParameter(f"{release!r}: write it like vad@1.0.0") from None
    before = own_orders.order_before(out, fleet, site, after=after)
    rollbacks = own_orders.with_rollback(before, item)
    order = own_orders.next_order(before, now=options.now(), rollbacks=rollbacks)
    _write(out, order, key, as_json=as_json)


def lift(
    site: Site,
    key: Key,
    out: Out,
    fleet: Fleet = "",
    after: After = 0,
    model: Model = "",
    as_json: options.Json = False,
) -> None:
    """Take back what the site ordered, of one model or all of it."""
    from mailboat_controller.sites import own_orders

    before = own_orders.order_before(out, fleet, site, after=after)
    holds, rollbacks = own_orders.without(before, model)
    order = own_orders.next_order(before, now=options.now(), holds=holds, rollbacks=rollbacks)
    _write(out, order, key, as_json=as_json)


def publish(
    order: Annotated[Path, typer.Argument(help="What `site hold`, `rollback` or `lift` wrote.")],
    broker: Annotated[
        str, typer.Option("--broker", help="HOST[:PORT] of the site's broker, by its certificate.")
    ],
    kit: Annotated[
        Path, typer.Option("--kit", help="Where the site's kit is: ca.pem, bridge.pem, bridge.key.")
    ] = Path("/etc/mailboat-site"),
    as_json: options.Json = False,
) -> None:
    """Hand an order to the site's broker, which keeps it for devices that are off."""
    from mailboat_controller.mqtt.retaining import retain
    from mailboat_controller.sites.own_orders import read_order

    found = read_order(order)
    host, port = _address(broker)
    retain(
        found.topic,
        found.content,
        host=host,
        port=port,
        ca=kit / "ca.pem",
        certificate=kit / "bridge.pem",
        key=kit / "bridge.key",
    )
    content = {"site": found.order.site, "counter": found.order.counter, "topic": found.topic}
    output.show_fields(content, as_json=as_json)


def add_to(app: typer.Typer) -> None:
    for command in (hold, rollback, lift, publish):
        app.command(command.__name__)(command)


def _write(out: Path, order: "SiteOrder", key: str, *, as_json: bool) -> None:
    from mailboat_controller.authority.keys import open_signer
    from mailboat_controller.sites.own_orders import sign_and_write

    signer = open_signer(key)
    sign_and_write(out, order, signer)
    content: dict[str, Any] = {
        "order": str(out),
        "site": order.site,
        "counter": order.counter,
        "keyid": signer.public_key.keyid,
        "stands": _in_words(order),
    }
    output.show_fields(content, as_json=as_json)
    output.say(
        f"\nNext: mailboat site publish {out} --broker HOST, "
        f"or on a device: mailboat-agent site-order {out}",
        as_json=as_json,
    )


def _in_words(order: "SiteOrder") -> list[str]:
    return [
        *(f"hold {each.model or 'every model'}: {each.reason}" for each in order.holds),
        *(f"{each.model} back to {each.version}: {each.reason}" for each in order.rollbacks),
    ]


def _until(hours: float) -> int:
    return int((options.now() + timedelta(hours=hours)).timestamp())


def _reason(text: str) -> str:
    from mailboat_schemas.device_orders import OVERRIDE_REASON_CHARS_MAX

    if not text.strip() or len(text) > OVERRIDE_REASON_CHARS_MAX or not text.isprintable():
        raise ConfigurationInvalid(
            "An order has a reason, in one line.",
            next_step=f"write one of at most {OVERRIDE_REASON_CHARS_MAX} characters.",
        )
    return text.strip()


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host:
        return text, BROKER_PORT
    if not (port.isascii() and port.isdecimal() and 0 < int(port[:6]) < 1 << 16):
        raise typer.BadParameter(f"{text!r}: write HOST or HOST:PORT", param_hint="--broker")
    return host.strip("[]"), int(port)

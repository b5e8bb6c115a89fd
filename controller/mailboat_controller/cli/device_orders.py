"""``mailboat device hold|release-hold|pin|unpin|label``: one device, or those a selector names."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mailboat_controller.cli import live_names, options, output
from mailboat_controller.cli.progress import in_turn
from mailboat_schemas.errors import Conflict, NotFound

if TYPE_CHECKING:
    from mailboat_controller.client import ApiClient

AT_ONCE_MAX = 100  # without `--yes`: a selector may name more than somebody meant
_COLUMNS = {"device": "DEVICE", "overrides": "STANDS FOR IT", "operator_labels": "LABELS"}

Device = Annotated[
    str | None,
    typer.Argument(help="The device's id; or give --selector.", autocompletion=live_names.devices),
]
Model = options.OneModel
Hours = Annotated[float, typer.Option("--hours", help="Until it ends by itself.")]
Yes = Annotated[bool, typer.Option("--yes", help=f"Also for more than {AT_ONCE_MAX} devices.")]


def hold(
    reason: options.Reason,
    device: Device = None,
    selector: options.SelectorOption = "",
    model: Model = None,
    hours: Hours = 72,
    yes: Yes = False,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Let nothing new be installed; what has to be left is left all the same."""
    order = {"reason": reason, "model": model, "hours": hours}
    _send(connection, device, selector, "hold", order, yes=yes, as_json=as_json)


def release_hold(
    reason: options.Reason,
    device: Device = None,
    selector: options.SelectorOption = "",
    model: Model = None,
    yes: Yes = False,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Take a hold back."""
    order = {"reason": reason, "model": model}
    _send(connection, device, selector, "release-hold", order, yes=yes, as_json=as_json)


def pin(
    release: Annotated[str, typer.Option("--release", help="Such as vad@1.2.0.")],
    reason: options.Reason,
    device: Device = None,
    selector: options.SelectorOption = "",
    hours: Hours = 72,
    yes: Yes = False,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Have a device run one approved release and no other, as far as its plan lets it."""
    model, separator, version = release.partition("@")
    if not separator:
        raise typer.BadParameter("write model@version, such as vad@1.2.0", param_hint="--release")
    order = {"reason": reason, "model": model, "version": version, "hours": hours}
    _send(connection, device, selector, "pin", order, yes=yes, as_json=as_json)


def unpin(
    model: Annotated[
        str, typer.Option("--model", help="The model.", autocompletion=live_names.models)
    ],
    reason: options.Reason,
    device: Device = None,
    selector: options.SelectorOption = "",
    yes: Yes = False,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Take a pin back."""
    order = {"reason": reason, "model": model}
    _send(connection, device, selector, "unpin", order, yes=yes, as_json=as_json)


def label(
    changes: Annotated[
        list[str], typer.Option("--set", help="name=value, or name= to take it away; repeat it.")
    ],
    reason: options.Reason,
    device: Device = None,
    selector: options.SelectorOption = "",
    yes: Yes = False,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Note something of a device for selectors. Rings go by its own labels alone."""
    wanted = {name: value or None for name, value in options.labels(changes).items()}
    order = {"reason": reason, "labels": wanted}
    _send(connection, device, selector, "labels", order, yes=yes, as_json=as_json)


def _send(
    connection: Path | None,
    device: str | None,
    selector: str,
    verb: str,
    order: Mapping[str, Any],
    *,
    yes: bool,
    as_json: bool,
) -> None:
    with options.client(connection) as client:
        names = named(client, device, selector, yes=yes)
        found, refused = [], False
        for name in in_turn(names, verb, shown=not as_json):
            try:
                found.append(client.post(f"/v1/devices/{name}/{verb}", order))
            except (Conflict, NotFound) as error:
                if len(names) == 1:
                    raise
                # A revoked one, or one without a hold to take back: the others are ordered too.
                output.show_error(error, as_json=as_json)
                refused = True
    for each in found:
        if not as_json:
            each["overrides"] = [_in_words(override) for override in each["overrides"]]
    output.show_rows(found, _COLUMNS, as_json=as_json)
    if refused:
        raise typer.Exit(output.EXIT_CONFLICT)


def named(client: "ApiClient", device: str | None, selector: str, *, yes: bool) -> list[str]:
    """The one device, or those that the selector names."""
    if (device is None) == (not selector):
        raise typer.BadParameter("name one device, or give --selector", param_hint="DEVICE")
    names = [device] if device is not None else []
    if device is None:
        pages = client.pages("/v1/devices", "enrolment_number", selector=selector)
        names = [row["device"] for row in pages]
        if not names:
            raise NotFound(
                f"No device is named by {selector!r}.",
                next_step="`mailboat device list` shows classes, sites and labels.",
            )
    if len(names) > AT_ONCE_MAX and not yes:
        raise typer.BadParameter(
            f"it names {len(names)} devices; add --yes", param_hint="--selector"
        )
    return names


def _in_words(override: Mapping[str, Any]) -> str:
    about = override["model"] or "every model"
    version = f"@{override['version']}" if override["version"] else ""
    return f"{override['kind']} {about}{version} until {override['expires_at']}"

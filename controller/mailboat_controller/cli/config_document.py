"""``mailboat config``: values for applications, signed for a class, a site or a device."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mailboat_controller.cli import fleet_document, options, output
from mailboat_controller.cli.fleet_document import (
    Keys,
    LevelArgument,
    PendingOption,
    TargetArgument,
    TrustRoot,
    Yes,
)

if TYPE_CHECKING:
    from mailboat_schemas.documents.config import ConfigDocument

ROLE = "config"
File = Annotated[Path, typer.Argument(metavar="FILE", help="A YAML of kind Config.")]

app = typer.Typer(
    no_args_is_help=True,
    help="Config: values for applications, signed for a class, a site or a device.",
    epilog=output.examples(
        "mailboat config diff kiosk.yaml",
        'mailboat config approve kiosk.yaml --key config.pem --reason "new camera"',
        "mailboat config list",
        "mailboat config list class kiosk-x86",
        'mailboat config rollback class kiosk-x86 1.3.0 --key config.pem --reason "too bright"',
    ),
)


@app.command("approve")
def approve(
    file: File,
    *,
    key: Keys,
    reason: options.Reason,
    pending: PendingOption = None,
    trust_root: TrustRoot = None,
    yes: Yes = False,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Show what a config would change, sign it, and hand it in once enough have signed."""
    document = _load(file)
    with options.client(connection) as api:
        fleet_document.approve(
            api,
            ROLE,
            document,
            key,
            pending=pending,
            trust_root=trust_root,
            reason=reason,
            yes=yes,
            as_json=as_json,
        )


@app.command("submit")
def submit(
    pending: Annotated[Path, typer.Argument(metavar="PENDING", help="The pending change.")],
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="The config it is about, if it has one.")
    ] = None,
    *,
    reason: options.Reason,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Hand in a pending change that all have signed with `mailboat trust sign`."""
    document = None if file is None else _load(file)
    with options.client(connection) as api:
        fleet_document.submit(api, pending, document, reason=reason, as_json=as_json)


@app.command("list")
def list_configs(
    level: Annotated[str, typer.Argument(metavar="[class|site|device]")] = "",
    target: Annotated[str, typer.Argument(help="Its name: what held there before, too.")] = "",
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Which configs hold; for one class, site or device also those before."""
    with options.client(connection) as api:
        fleet_document.show_list(api, ROLE, level, target, as_json=as_json)


@app.command("show")
def show(
    level: LevelArgument,
    target: TargetArgument,
    version: Annotated[str, typer.Argument(help="Without it the one that holds.")] = "",
    connection: options.ConnectionOption = None,
) -> None:
    """A config as it was signed, as JSON."""
    with options.client(connection) as api:
        fleet_document.show(api, fleet_document.place_of(ROLE, level, target), version)


@app.command("diff")
def diff(
    file: File,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Compare a config with the one that holds for the same place; exit code 3 if it is another."""
    document = _load(file)
    about = document.metadata
    place = fleet_document.place_of(ROLE, about.level, about.target)
    with options.client(connection) as api:
        fleet_document.diff(api, place, document.canonical_bytes(), as_json=as_json)


@app.command("rollback")
def rollback(
    level: LevelArgument,
    target: TargetArgument,
    version: Annotated[str, typer.Argument(help="An earlier version, to hold again.")],
    *,
    key: Keys,
    reason: options.Reason,
    pending: PendingOption = None,
    trust_root: TrustRoot = None,
    yes: Yes = False,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Sign that an earlier version holds again. Without that mark devices refuse older ones."""
    from mailboat_schemas.documents.config import ConfigDocument

    place = fleet_document.place_of(ROLE, level, target)
    with options.client(connection) as api:
        fleet_document.rollback(
            api,
            place,
            version,
            ConfigDocument,
            keys=key,
            pending=pending,
            trust_root=trust_root,
            reason=reason,
            yes=yes,
            as_json=as_json,
        )


@app.command("withdraw")
def withdraw(
    level: LevelArgument,
    target: TargetArgument,
    *,
    key: Keys,
    reason: options.Reason,
    pending: PendingOption = None,
    trust_root: TrustRoot = None,
    yes: Yes = False,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Sign that no config holds for a class, site or device any more."""
    place = fleet_document.place_of(ROLE, level, target)
    with options.client(connection) as api:
        fleet_document.withdraw(
            api,
            place,
            key,
            pending=pending,
            trust_root=trust_root,
            reason=reason,
            yes=yes,
            as_json=as_json,
        )


def _load(file: Path) -> "ConfigDocument":
    from mailboat_schemas.documents.config import ConfigDocument
    from mailboat_schemas.documents.yaml_source import load_document

    return load_document(file, ConfigDocument)

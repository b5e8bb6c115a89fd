"""``mailboat policy``: when devices may switch, signed for a class or a site."""

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
    from mailboat_schemas.documents.policy import PolicyDocument

ROLE = "policy"
File = Annotated[Path, typer.Argument(metavar="FILE", help="A YAML of kind Policy.")]

app = typer.Typer(
    no_args_is_help=True,
    help="Policy: when devices may switch and how far behind they may be, signed.",
    epilog=output.examples(
        "mailboat policy diff kiosk.yaml",
        'mailboat policy approve kiosk.yaml --key policy.pem --reason "opening hours"',
        "mailboat policy list",
        "mailboat policy list class kiosk-x86",
        'mailboat policy rollback class kiosk-x86 1.3.0 --key policy.pem --reason "too narrow"',
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
    """Show what a policy would change, sign it, and hand it in once enough have signed."""
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
        Path | None, typer.Argument(metavar="FILE", help="The policy it is about, if it has one.")
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
def list_policies(
    level: Annotated[str, typer.Argument(metavar="[class|site]")] = "",
    target: Annotated[str, typer.Argument(help="Its name: what held there before, too.")] = "",
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Which policies hold; for one class or site also those before."""
    with options.client(connection) as api:
        fleet_document.show_list(api, ROLE, level, target, as_json=as_json)


@app.command("show")
def show(
    level: LevelArgument,
    target: TargetArgument,
    version: Annotated[str, typer.Argument(help="Without it the one that holds.")] = "",
    connection: options.ConnectionOption = None,
) -> None:
    """A policy as it was signed, as JSON."""
    with options.client(connection) as api:
        fleet_document.show(api, fleet_document.place_of(ROLE, level, target), version)


@app.command("diff")
def diff(
    file: File,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Compare a policy with the one that holds for the same place; exit code 3 if it is another."""
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
    from mailboat_schemas.documents.policy import PolicyDocument

    place = fleet_document.place_of(ROLE, level, target)
    with options.client(connection) as api:
        fleet_document.rollback(
            api,
            place,
            version,
            PolicyDocument,
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
    """Sign that no policy holds for a class or site any more."""
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


def _load(file: Path) -> "PolicyDocument":
    from mailboat_schemas.documents.policy import PolicyDocument
    from mailboat_schemas.documents.yaml_source import load_document

    return load_document(file, PolicyDocument)

"""The commands that ``mailboat config`` and ``mailboat policy`` have in common."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mailboat_controller.cli import fleet_document, options
from mailboat_controller.cli.fleet_document import LevelArgument, TargetArgument
from mailboat_controller.cli.signing import Keys, PendingOption, TrustRoot, Yes

if TYPE_CHECKING:
    from mailboat_schemas.documents.fleet_document import FleetDocument

File = Annotated[Path, typer.Argument(metavar="FILE", help="A YAML of this kind.")]


@dataclass(frozen=True, slots=True)
class Commands:
    """``kind`` gives the model of the documents; called late, so that ``--help`` is fast."""

    role: str
    places: str  # whom such a document may be for, in words
    kind: "Callable[[], type[FleetDocument]]"

    def add_to(self, app: typer.Typer) -> None:
        role = self.role
        told = {
            "approve": f"Show what a {role} would change, sign it, and hand it in once enough "
            "have signed.",
            "submit": "Hand in a pending change that all have signed with `mailboat trust sign`.",
            "list": f"Which documents hold; for one {self.places} also those before.",
            "show": f"A {role} as it was signed, as JSON.",
            "diff": f"Compare a {role} with the one that holds for the same place; exit code 3 "
            "if it is another.",
            "rollback": "Sign that an earlier version holds again. Without that mark devices "
            "refuse older ones.",
            "withdraw": f"Sign that no {role} holds for a {self.places} any more.",
        }
        for name, text in told.items():
            app.command(name, help=text)(getattr(self, "all" if name == "list" else name))

    def approve(
        self,
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
        document = self._load(file)
        with options.client(connection) as api:
            fleet_document.approve(
                api,
                self.role,
                document,
                key,
                pending=pending,
                trust_root=trust_root,
                reason=reason,
                yes=yes,
                as_json=as_json,
            )

    def submit(
        self,
        pending: Annotated[Path, typer.Argument(metavar="PENDING", help="The pending change.")],
        file: Annotated[
            Path | None, typer.Argument(metavar="FILE", help="What it is about, if it has one.")
        ] = None,
        *,
        reason: options.Reason,
        connection: options.ConnectionOption = None,
        as_json: options.Json = False,
    ) -> None:
        document = None if file is None else self._load(file)
        with options.client(connection) as api:
            fleet_document.submit(api, pending, document, reason=reason, as_json=as_json)

    def all(
        self,
        level: Annotated[
            str, typer.Argument(metavar="[LEVEL]", help="class, site or device.")
        ] = "",
        target: Annotated[str, typer.Argument(help="Its name: what held there before, too.")] = "",
        connection: options.ConnectionOption = None,
        as_json: options.Json = False,
    ) -> None:
        with options.client(connection) as api:
            fleet_document.show_list(api, self.role, level, target, as_json=as_json)

    def show(
        self,
        level: LevelArgument,
        target: TargetArgument,
        version: Annotated[str, typer.Argument(help="Without it the one that holds.")] = "",
        connection: options.ConnectionOption = None,
        as_json: options.Json = False,
    ) -> None:
        del as_json  # a document is told as one anyway, in the form that is asked for
        with options.client(connection) as api:
            fleet_document.show(api, fleet_document.place_of(self.role, level, target), version)

    def diff(
        self,
        file: File,
        connection: options.ConnectionOption = None,
        as_json: options.Json = False,
    ) -> None:
        document = self._load(file)
        about = document.metadata
        place = fleet_document.place_of(self.role, about.level, about.target)
        with options.client(connection) as api:
            fleet_document.diff(api, place, document.canonical_bytes(), as_json=as_json)

    def rollback(
        self,
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
        place = fleet_document.place_of(self.role, level, target)
        with options.client(connection) as api:
            fleet_document.rollback(
                api,
                place,
                version,
                self.kind(),
                keys=key,
                pending=pending,
                trust_root=trust_root,
                reason=reason,
                yes=yes,
                as_json=as_json,
            )

    def withdraw(
        self,
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
        place = fleet_document.place_of(self.role, level, target)
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

    def _load(self, file: Path) -> "FleetDocument":
        from mailboat_schemas.documents.yaml_source import load_document

        return load_document(file, self.kind())

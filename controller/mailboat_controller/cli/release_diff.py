"""``mailboat release diff``: what changes from one release to another."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mailboat_controller.cli import options, output
from mailboat_schemas.errors import NotFound

if TYPE_CHECKING:
    from mailboat_schemas.documents.release import ReleaseDocument

_COLUMNS = {
    "part": "PART",
    "what": "WHAT",
    "classes": "CLASSES",
    "before": "BEFORE",
    "after": "AFTER",
    "grown_by": "BYTES",
}
_NAMED = "MODEL@VERSION, or the directory of a build."


def diff(
    before: Annotated[str, typer.Argument(metavar="A", help=_NAMED)],
    after: Annotated[str, typer.Argument(metavar="B", help=f"{_NAMED} VERSION alone: A's model.")],
    everything: Annotated[
        bool, typer.Option("--all", help="Also what is the same in both.")
    ] = False,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Files, metrics, interface, requirements and origin of two releases, where they differ.

    Exit code 0: they differ in nothing but the version, 3: differences.
    """
    from mailboat_controller.releases.release_diff import release_diff

    old = _document(before, "", connection)
    new = _document(after, old.model, connection)
    changes = release_diff(old, new, unchanged=everything)
    rows = [
        {
            "part": each.part.value,
            "what": each.what,
            "classes": list(each.classes),
            "before": each.before,
            "after": each.after,
            "grown_by": each.grown_by,
        }
        for each in changes
    ]
    output.show_rows(rows, _COLUMNS, as_json=as_json)
    output.say_empty(rows, "Nothing but the version differs.", as_json=as_json)
    if any(each.is_change for each in changes):
        raise typer.Exit(output.EXIT_DIFFERENT)


def _document(named: str, model: str, connection: Path | None) -> "ReleaseDocument":
    """
    Raises:
        NotFound: it names neither a release nor a build.
    """
    from mailboat_controller.releases.build import read_build
    from mailboat_schemas.documents.release import ReleaseDocument

    if Path(named).is_dir():
        return read_build(Path(named)).document
    name, at, version = named.rpartition("@")
    if not at and not model:
        raise NotFound(
            f"{named!r} names no release and no directory of a build.",
            next_step="write MODEL@VERSION, such as heat@1.2.0; `mailboat release list` has them.",
        )
    with options.client(connection) as client:
        return ReleaseDocument.parse(client.release_document(name or model, version))

"""``mailboat class``: hardware classes."""

from pathlib import Path
from typing import Annotated

import typer

from mailboat_controller.cli import live_names, options, output

app = typer.Typer(help="Hardware classes.", no_args_is_help=True)

_COLUMNS = {
    "name": "CLASS",
    "arch": "ARCH",
    "memory_budget": "MEMORY",
    "disk_budget": "DISK",
    "description": "DESCRIPTION",
}


@app.command("apply")
def apply(
    file: Annotated[list[Path], typer.Option("-f", "--file", help="YAML; may be repeated.")],
    reason: options.OptionalReason = "",
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Create or change classes from their YAML."""
    from mailboat_schemas.documents.hardware_class import HardwareClass
    from mailboat_schemas.documents.yaml_source import load_document

    # All are read before the first is sent: a mistake in the last changes nothing.
    documents = [load_document(path, HardwareClass) for path in file]
    with options.client(connection) as client:
        applied = [
            client.put(
                f"/v1/hardware-classes/{document.metadata.name}",
                document.model_dump(mode="json", by_alias=True),
                reason=reason,
            )
            for document in documents
        ]
    output.show_rows(applied, {"name": "CLASS", "changed": "CHANGED"}, as_json=as_json)


@app.command("list")
def list_classes(
    connection: options.ConnectionOption = None, as_json: options.Json = False
) -> None:
    """All classes."""
    with options.client(connection) as client:
        found = client.get("/v1/hardware-classes")
    if as_json:
        output.show_json(found, name=("name",))
        return
    rows = [{**document["metadata"], **document["spec"]} for document in found]
    output.show_rows(rows, _COLUMNS, as_json=False)


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="The class.", autocompletion=live_names.classes)],
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """One class: what its devices are and have room for."""
    with options.client(connection) as client:
        found = client.get(f"/v1/hardware-classes/{name}")
    if as_json:
        output.show_json(found)
        return
    output.show_fields({**found["metadata"], **found["spec"]}, as_json=False)

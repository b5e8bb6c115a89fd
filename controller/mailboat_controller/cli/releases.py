"""``mailboat release list``: what the controller has accepted."""

from typing import Annotated

import typer

from mailboat_controller.cli import options, output

_COLUMNS = {
    "model": "MODEL",
    "version": "VERSION",
    "digest": "DIGEST",
    "accepted_at": "ACCEPTED",
    "hardware_classes": "CLASSES",
}


def list_releases(
    model: Annotated[str | None, typer.Option("--model", help="Only of this model.")] = None,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Releases the controller has accepted, in order."""
    with options.client(connection) as client:
        output.show_rows(client.get("/v1/releases", model=model), _COLUMNS, as_json=as_json)

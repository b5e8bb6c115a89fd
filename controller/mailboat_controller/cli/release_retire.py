"""``mailboat release retire``: say that a release's files need not be kept."""

from typing import Annotated

import typer

from mailboat_controller.cli import options, output


def retire(
    model: options.ModelName,
    version: options.Version,
    reason: options.Reason,
    force: Annotated[
        bool, typer.Option("--force", help="Although a class keeps it, or devices run it.")
    ] = False,
    undo: Annotated[
        bool, typer.Option("--undo", help="Take it back, while its files are there.")
    ] = False,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Keep a release's files no more; they go after the grace period. Devices keep what they run.

    Refused while it is current or offered. To take it from devices, withdraw it.
    """
    path = f"/v1/releases/{model}/{version}"
    with options.client(connection) as client:
        if undo:
            done = client.post(f"{path}/reinstate", {"reason": reason})
        else:
            done = client.post(f"{path}/retire", {"reason": reason, "force": force})
    text = (
        f"{model} {version} is kept again."
        if undo
        else f"{model} {version} is retired. Files that nothing else names are removed "
        f"{done['grace_days']:g} days after the next collection has seen it."
    )
    output.tell(done, text, as_json=as_json)

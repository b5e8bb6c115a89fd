"""``mailboat webhook``: who is told of outcomes and failures."""

from pathlib import Path
from typing import Annotated

import typer

from mailboat_controller.cli import options, output
from mailboat_controller.durable_file import create_durably
from mailboat_schemas.errors import ConfigurationInvalid

app = typer.Typer(
    help="Webhooks: outcomes and failures for other systems, signed.",
    epilog=output.examples(
        "mailboat webhook add chat https://hooks.example.org/mailboat "
        '--secret-out chat.secret --reason "the shift wants to know"',
        'mailboat webhook test chat --reason "after the move"',
    ),
    no_args_is_help=True,
)
SECRET_CHARS_MAX = 1024
_COLUMNS = {
    "name": "NAME",
    "state": "STATE",
    "url": "URL",
    "waiting": "WAITING",
    "failures": "FAILED",
    "because": "BECAUSE",
}
_DELIVERY_COLUMNS = {
    "created_at": "HAPPENED",
    "type": "TYPE",
    "state": "STATE",
    "attempts": "ATTEMPTS",
    "status": "STATUS",
    "problem": "PROBLEM",
}

Name = Annotated[str, typer.Argument(help="The webhook's name.")]


@app.command("add")
def add(
    name: Name,
    url: Annotated[str, typer.Argument(help="https://…; http only on loopback.")],
    reason: options.Reason,
    kind: Annotated[
        list[str] | None, typer.Option("--type", help="Only these events; may be repeated.")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option("--model", help="Only about these models.")
    ] = None,
    secret_file: Annotated[
        Path | None, typer.Option("--secret-file", help="A secret the receiver has: whsec_….")
    ] = None,
    secret_out: Annotated[
        Path | None, typer.Option("--secret-out", help="New file for a secret that is made.")
    ] = None,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Tell a receiver of what happens from here on."""
    if (secret_file is None) == (secret_out is None):
        raise typer.BadParameter("name one of --secret-file and --secret-out")
    if secret_out is not None and secret_out.exists():
        raise ConfigurationInvalid(
            f"{secret_out} is there already.", next_step="name a new file for the secret."
        )
    order = {
        "name": name,
        "url": url,
        "types": kind or [],
        "models": model or [],
        "secret": None if secret_file is None else _secret(secret_file),
        "reason": reason,
    }
    with options.client(connection) as client:
        added = client.post("/v1/webhooks", order)
    made = added.pop("secret")
    if secret_out is not None:
        create_durably(secret_out, f"{made}\n".encode())
        added["secret_file"] = str(secret_out)
    output.show_fields(added, as_json=as_json)


@app.command("list")
def list_webhooks(
    connection: options.ConnectionOption = None, as_json: options.Json = False
) -> None:
    """All of them, with what waits."""
    with options.client(connection) as client:
        output.show_rows(client.get("/v1/webhooks"), _COLUMNS, as_json=as_json)


@app.command("test")
def send_one(
    name: Name,
    reason: options.Reason,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Send one event now; exits with 1 if the receiver does not take it."""
    with options.client(connection) as client:
        answer = client.post(f"/v1/webhooks/{name}/test", {"reason": reason})
    output.show_fields(answer, as_json=as_json)
    if not answer["delivered"]:
        raise typer.Exit(output.EXIT_FAILURE)


@app.command("enable")
def enable(
    name: Name,
    reason: options.Reason,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Go on with one that was disabled; what waits is sent at once."""
    _switch(name, "enable", reason, connection, as_json)


@app.command("disable")
def disable(
    name: Name,
    reason: options.Reason,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Send nothing more there; what happens meanwhile is not made up for."""
    _switch(name, "disable", reason, connection, as_json)


@app.command("remove")
def remove(
    name: Name,
    reason: options.Reason,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """With what waits for it, and its secret."""
    with options.client(connection) as client:
        client.delete(f"/v1/webhooks/{name}", reason=reason)
    output.show_fields({"removed": name}, as_json=as_json)


@app.command("deliveries")
def deliveries(
    name: Name,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """What was told, waits or was given up; the newest first."""
    with options.client(connection) as client:
        found = client.get(f"/v1/webhooks/{name}/deliveries", limit=100)
    output.show_rows(found, _DELIVERY_COLUMNS, as_json=as_json)


def _switch(name: str, verb: str, reason: str, connection: Path | None, as_json: bool) -> None:
    with options.client(connection) as client:
        found = client.post(f"/v1/webhooks/{name}/{verb}", {"reason": reason})
    output.show_fields({key: found[key] for key in ("name", "state")}, as_json=as_json)


def _secret(path: Path) -> str:
    """A file and never an argument: a command line is read by everybody on the machine."""
    try:
        with path.open() as file:
            return file.read(SECRET_CHARS_MAX).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationInvalid(
            f"{path} cannot be read: {error}.", next_step="name the file that holds the secret."
        ) from error

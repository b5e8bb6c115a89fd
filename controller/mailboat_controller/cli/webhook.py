"""``mailboat webhook``: who is told of outcomes and failures."""

from pathlib import Path
from typing import Annotated, Any

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
DELIVERIES_SHOWN = 100
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

Name = options.WebhookName
SecretFile = Annotated[
    Path | None, typer.Option("--secret-file", help="A secret the receiver has: whsec_….")
]
SecretOut = Annotated[
    Path | None, typer.Option("--secret-out", help="New file for a secret that is made.")
]


@app.command("add")
def add(
    name: Name,
    url: Annotated[str, typer.Argument(help="https://…; http only on loopback.")],
    reason: options.Reason,
    kind: Annotated[
        list[str] | None, typer.Option("--type", help="Only these events; may be repeated.")
    ] = None,
    model: options.SomeModels = None,
    secret_file: SecretFile = None,
    secret_out: SecretOut = None,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Tell a receiver of what happens from here on."""
    order: dict[str, Any] = {"name": name, "url": url, "types": kind or [], "models": model or []}
    order |= {"reason": reason, "secret": _given(secret_file, secret_out)}
    added = _post("", order, connection)
    _show_with_secret(added, secret_out, as_json=as_json)


@app.command("secret")
def renew_secret(
    name: Name,
    reason: options.Reason,
    secret_file: SecretFile = None,
    secret_out: SecretOut = None,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Sign with another secret; for a day the one before signs as well."""
    order = {"reason": reason, "secret": _given(secret_file, secret_out)}
    renewed = _post(f"/{name}/secret", order, connection)
    _show_with_secret(renewed, secret_out, as_json=as_json)


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
    answer = _post(f"/{name}/test", {"reason": reason}, connection)
    output.show_fields(answer, as_json=as_json)
    if not answer["delivered"]:
        raise typer.Exit(output.EXIT_FAILURE)


def _switch(verb: str, text: str) -> None:
    """Add the command ``verb``."""

    @app.command(verb, help=text)
    def switch(
        name: Name,
        reason: options.Reason,
        connection: options.ConnectionOption = None,
        as_json: options.Json = False,
    ) -> None:
        found = _post(f"/{name}/{verb}", {"reason": reason}, connection)
        output.show_fields({key: found[key] for key in ("name", "state")}, as_json=as_json)


_switch("enable", "Go on with one that was disabled; what waits is sent at once.")
_switch("disable", "Send nothing more there; what happens meanwhile is not made up for.")


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
        found = client.get(f"/v1/webhooks/{name}/deliveries", limit=DELIVERIES_SHOWN)
    output.show_rows(found, _DELIVERY_COLUMNS, as_json=as_json)


def _post(path: str, order: dict[str, Any], connection: Path | None) -> dict[str, Any]:
    with options.client(connection) as client:
        return dict(client.post(f"/v1/webhooks{path}", order))


def _given(secret_file: Path | None, secret_out: Path | None) -> str | None:
    """What the receiver has; None: one is made. Whatever is wrong is said before it is.

    A file and never an argument: a command line is read by everybody on the machine.
    """
    if (secret_file is None) == (secret_out is None):
        raise typer.BadParameter("name one of --secret-file and --secret-out")
    if secret_out is not None and secret_out.exists():
        raise ConfigurationInvalid(
            f"{secret_out} is there already.", next_step="name a new file for the secret."
        )
    if secret_out is not None and not secret_out.absolute().parent.is_dir():
        raise ConfigurationInvalid(
            f"There is no directory for {secret_out}.", next_step="make it, or name another file."
        )
    if secret_file is None:
        return None
    try:
        with secret_file.open() as file:
            return file.read(SECRET_CHARS_MAX).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationInvalid(
            f"{secret_file} cannot be read: {error}.",
            next_step="name the file that holds the secret.",
        ) from error


def _show_with_secret(told: dict[str, Any], secret_out: Path | None, *, as_json: bool) -> None:
    made = told.pop("secret")
    if secret_out is not None:
        create_durably(secret_out, f"{made}\n".encode())
        told["secret_file"] = str(secret_out)
    output.show_fields(told, as_json=as_json)

"""``mailboat token``: how people get in, stay in, and are cut off."""

from pathlib import Path
from typing import Annotated

import typer

from mailboat_controller.access.people import DAYS_DEFAULT, DAYS_MAX, Role
from mailboat_controller.cli import options, output

app = typer.Typer(
    help="Access tokens of people: issue, list, renew, revoke.",
    epilog=output.examples(
        "mailboat token issue anna --role operator --out anna",
        'mailboat token revoke anna --reason "left the company"',
    ),
    no_args_is_help=True,
)

OnDisk = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="The controller's settings file: do it on its disk, without asking the API.",
        show_default=False,
    ),
]
_COLUMNS = {
    "name": "NAME",
    "role": "ROLE",
    "id": "ID",
    "expires_at": "EXPIRES",
    "last_used_at": "LAST USED",
    "revoked": "REVOKED",
}


@app.command("issue")
def issue(
    name: Annotated[str, typer.Argument(help="Whose token it is.")],
    role: Annotated[Role, typer.Option("--role", help="What they may do.")],
    out: Annotated[Path, typer.Option("--out", help="Directory for connection, token and CA.")],
    days: Annotated[
        int, typer.Option("--days", min=1, max=DAYS_MAX, help="How long it lives.")
    ] = DAYS_DEFAULT,
    reason: options.OptionalReason = "",
    config: options.ConfigOption = options.DEFAULT_CONFIG,
    as_json: options.Json = False,
) -> None:
    """Make a token and a connection file. Needs the controller's data directory."""
    from mailboat_controller.access.token_directory import issue_token
    from mailboat_controller.config import load

    connection = issue_token(
        load(config),
        name,
        role,
        out,
        days=days,
        reason=reason,
        actor=options.local_actor(),
        now=options.now(),
    )
    content = {"name": name, "role": str(role), "days": days, "connection": str(connection)}
    output.show_fields(content, as_json=as_json)


@app.command("list")
def list_tokens(
    config: OnDisk = None,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Every token of the last year, without its secret."""
    if config is None:
        with options.client(connection) as client:
            rows = client.get("/v1/access-tokens")
    else:
        from mailboat_controller.access.token_directory import list_tokens as listed
        from mailboat_controller.config import load

        rows = [
            {
                "id": row.id,
                "name": row.name,
                "role": str(row.role),
                "created_at": row.created_at,
                "created_by": row.created_by,
                "expires_at": row.expires_at,
                "renewable_until": row.renewable_until,
                "last_used_at": row.last_used_at,
                "revoked": row.revoked_at is not None,
            }
            for row in listed(load(config))
        ]
    output.show_rows(rows, _COLUMNS, as_json=as_json)


@app.command("revoke")
def revoke(
    name: Annotated[str, typer.Argument(help="Whose tokens.")],
    reason: options.Reason,
    token_id: Annotated[
        str | None, typer.Option("--id", help="Only this one, with its renewals.")
    ] = None,
    config: OnDisk = None,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Cut a person off: the API refuses their tokens from the next request on."""
    if config is None:
        with options.client(connection) as client:
            found = client.post(
                f"/v1/access-tokens/{name}/revoke", {"reason": reason, "id": token_id}
            )
        count = found["revoked"]
    else:
        from mailboat_controller.access.token_directory import revoke_tokens
        from mailboat_controller.config import load

        count = revoke_tokens(
            load(config),
            name,
            token_id=token_id,
            reason=reason,
            actor=options.local_actor(),
            now=options.now(),
        )
    output.show_fields({"name": name, "revoked": count}, as_json=as_json)


@app.command("renew")
def renew(
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Put a new token in the place of one's own, before that ends. The old one ends with it."""
    from mailboat_controller.client import ApiClient
    from mailboat_controller.connection_file import replace_token, token_path

    path = options.connection_path(connection)
    place = token_path(path)
    with ApiClient.open(path) as client:
        renewed = client.post("/v1/access-tokens/self/renew", {})
    replace_token(place, renewed["token"])
    # Its first use ends the old one. If this fails, the old one ends by itself a little later.
    with ApiClient.open(path) as client:
        own = client.get("/v1/access-tokens/self")
    content = {key: own[key] for key in ("name", "role", "id", "expires_at", "renewable_until")}
    output.show_fields(content, as_json=as_json)

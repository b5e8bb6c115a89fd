"""``mailboat audit``: who did what, and whether the record is whole."""

from typing import Annotated

import typer

from mailboat_controller.cli import options, output

app = typer.Typer(help="The audit log.", no_args_is_help=True)

_COLUMNS = {
    "sequence": "NO",
    "at": "AT",
    "actor": "ACTOR",
    "action": "ACTION",
    "subject": "SUBJECT",
    "reason": "REASON",
}


@app.command("show")
def show(
    subject: Annotated[str | None, typer.Option("--subject", help="Only about this.")] = None,
    after: Annotated[int, typer.Option("--after", min=0, help="Above this number.")] = 0,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """All entries, oldest first."""
    with options.client(connection) as client:
        rows = [
            row
            for row in client.pages("/v1/audit", "sequence", subject=subject)
            if row["sequence"] > after
        ]
    output.show_rows(rows, _COLUMNS, as_json=as_json)


@app.command("verify")
def verify(connection: options.ConnectionOption = None, as_json: options.Json = False) -> None:
    """Check the chain of hashes; exits with 8 when an entry does not hold."""
    with options.client(connection) as client:
        found = client.get("/v1/audit/verify")
    output.show_fields(found, as_json=as_json)
    if not found["holds"]:
        raise typer.Exit(output.EXIT_TRUST)

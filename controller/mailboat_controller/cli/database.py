"""``mailboat db``: the controller's database, as a whole."""

from pathlib import Path
from typing import Annotated

import typer

from mailboat_controller.cli import options, output

app = typer.Typer(
    no_args_is_help=True,
    help="The controller's database. Needs the controller's data directory.",
    epilog=output.examples(
        'mailboat db copy --to "postgresql+psycopg://mailboat@/mailboat?host=/var/run/postgresql"',
        "mailboat db copy --to-file target-url",
    ),
)


@app.callback()
def _database() -> None:
    """A group, though there is one command in it."""


@app.command("copy")
def copy(
    to: Annotated[
        str,
        typer.Option("--to", metavar="URL", help="As database_url, without a password in it."),
    ] = "",
    to_file: Annotated[
        Path | None,
        typer.Option("--to-file", help="A file that holds the URL, where it has a password in it."),
    ] = None,
    reason: options.OptionalReason = "",
    config: options.ConfigOption = options.DEFAULT_CONFIG,
    as_json: options.Json = False,
) -> None:
    """Copy everything into another, empty database, and check what came there.

    Stop `mailboat serve` and `mailboat ingest` first. All of it is copied or nothing; the database
    that database_url names stays as it is.
    """
    from dataclasses import asdict

    from mailboat_controller.cli.progress import progress
    from mailboat_controller.config import load
    from mailboat_controller.store import database_copy
    from mailboat_controller.store.database_url import named
    from mailboat_controller.store.engine import Store

    settings = load(config)
    source, target = Store(settings.store_url), Store(named(to, to_file))
    try:
        database_copy.refuse_unready(source, target)
        total = database_copy.count_rows(source)
        with progress("copying", shown=not as_json, total_rows=total) as advance:
            copied = database_copy.copy(
                source,
                target,
                actor=options.local_actor(),
                reason=reason,
                now=options.now(),
                advance=advance,
            )
    finally:
        source.close()
        target.close()
    output.show_fields(asdict(copied), as_json=as_json)
    output.say(
        f"\nNow name it as database_url in {config}, and start `mailboat serve`. Keep the old one "
        "as a backup: whatever is written to it from here on is in the old one alone.",
        as_json=as_json,
    )

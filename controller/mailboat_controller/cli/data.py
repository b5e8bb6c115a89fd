"""``mailboat init``, ``serve`` and ``credential``: what is done on the controller's own disk."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from mailboat_controller.access.people import DAYS_DEFAULT, Role
from mailboat_controller.cli import options, output

credential = typer.Typer(
    help="Certificates of pipelines, dashboards and sites.",
    epilog=output.examples(
        "mailboat credential issue vision --kind ci --out ci",
        'mailboat credential revoke vision --kind ci --reason "runner was stolen"',
    ),
    no_args_is_help=True,
)

# As `mailboat_controller.data_directory` has them: the other kinds are given by enrolment, or are
# the controller's own.
Issuable = Literal["ci", "dashboard", "site"]
KindOption = Annotated[
    Issuable, typer.Option("--kind", metavar="ci|dashboard|site", help="What it is for.")
]


def init(
    fleet: Annotated[str, typer.Option("--fleet", help="The fleet's name.")],
    data_dir: Annotated[
        Path, typer.Option("--data-dir", help="The directory to make.")
    ] = options.DEFAULT_DATA_DIR,
    trust: Annotated[
        Path | None,
        typer.Option("--trust", help="What `mailboat trust init` made, or its `controller` alone."),
    ] = None,
    operator: Annotated[
        str, typer.Option("--operator", help="Name of the first operator.")
    ] = "operator",
    listen_port: Annotated[int, typer.Option(min=1, max=65535, help="Of the API.")] = 8443,
    mqtt_port: Annotated[int, typer.Option(min=1, max=65535, help="Of the broker.")] = 8883,
    public_host: Annotated[
        str, typer.Option("--public-host", help="Name by which devices reach this machine.")
    ] = "",
    as_json: options.Json = False,
) -> None:
    """Make a controller's data directory, with its first operator's connection file.

    Run it again with --trust to bring in a trust ceremony that was held later.
    """
    from mailboat_controller import data_directory
    from mailboat_controller.access.token_directory import issue_token
    from mailboat_controller.config import CONFIG_FILE, load

    config = data_dir / CONFIG_FILE
    if config.exists() and trust is not None:
        data_directory.import_trust(load(config), trust)
        output.say(f"Trust imported into {data_dir}.", as_json=as_json)
        return
    now = options.now()
    settings = data_directory.create(
        data_dir,
        fleet=fleet,
        trust=trust,
        now=now,
        listen_port=listen_port,
        mqtt_port=mqtt_port,
        public_host=public_host,
    )
    connection = issue_token(
        settings,
        operator,
        Role.OPERATOR,
        data_dir / "connections" / operator,
        days=DAYS_DEFAULT,
        actor=options.local_actor(),
        now=now,
    )
    output.show_fields(
        {"fleet": fleet, "config": str(config), "connection": str(connection)}, as_json=as_json
    )
    output.say(f"\nStart it:      mailboat serve --config {config}", as_json=as_json)
    output.say(f"Then, as you:  export MAILBOAT_CONNECTION={connection}", as_json=as_json)
    output.say(f"Your token lives {DAYS_DEFAULT} days: mailboat token renew", as_json=as_json)


def serve(config: options.ConfigOption = options.DEFAULT_CONFIG) -> None:
    """Run the controller: API, broker (unless configured otherwise) and rollouts."""
    import asyncio

    from mailboat_controller import plain_log

    plain_log.load()  # before others load it with all there is
    from mailboat_controller import garbage
    from mailboat_controller.config import load
    from mailboat_controller.service import serve as serve_until_stopped

    garbage.settle()
    asyncio.run(serve_until_stopped(load(config)))


@credential.command("issue")
def issue(
    name: Annotated[str, typer.Argument(help="Pipeline, dashboard or site.")],
    kind: KindOption,
    out: Annotated[Path, typer.Option("--out", help="Directory for connection, key, certificate.")],
    config: options.ConfigOption = options.DEFAULT_CONFIG,
    as_json: options.Json = False,
) -> None:
    """Make a key, a certificate and a connection file. Needs the controller's data directory."""
    from mailboat_controller import data_directory
    from mailboat_controller.config import load
    from mailboat_schemas.enrolment import Kind

    connection = data_directory.issue_credential(
        load(config), Kind(kind), name, out, actor=options.local_actor(), now=options.now()
    )
    content = {"name": name, "kind": kind, "connection": str(connection)}
    output.show_fields(content, as_json=as_json)


@credential.command("list")
def list_credentials(
    config: options.ConfigOption = options.DEFAULT_CONFIG, as_json: options.Json = False
) -> None:
    """Every credential ever issued here."""
    from dataclasses import asdict

    from mailboat_controller.config import load
    from mailboat_controller.store import credentials
    from mailboat_controller.store.engine import Store

    store = Store(load(config).store_url)
    try:
        with store.read() as tx:
            rows = [asdict(row) for row in credentials.every(tx)]
    finally:
        store.close()
    columns = {"kind": "KIND", "name": "NAME", "expires_at": "EXPIRES", "revoked": "REVOKED"}
    output.show_rows(rows, columns, as_json=as_json)


@credential.command("revoke")
def revoke(
    name: Annotated[str, typer.Argument(help="Whose certificates.")],
    kind: KindOption,
    reason: options.Reason,
    config: options.ConfigOption = options.DEFAULT_CONFIG,
    as_json: options.Json = False,
) -> None:
    """Cut a holder off: the API refuses every certificate at once, the broker within seconds."""
    from mailboat_controller import data_directory
    from mailboat_controller.config import load
    from mailboat_schemas.enrolment import Kind

    count = data_directory.revoke_credential(
        load(config),
        Kind(kind),
        name,
        reason=reason,
        actor=options.local_actor(),
        now=options.now(),
    )
    output.show_fields({"name": name, "kind": kind, "revoked": count}, as_json=as_json)

"""The operator's command, ``mailboat``. One module a noun; heavy imports happen inside commands."""

import sys

import typer

from mailboat_controller.cli import (
    audit,
    data,
    demo,
    device,
    hardware_class,
    output,
    release,
    releases,
    rollout,
    trust,
)
from mailboat_schemas.errors import MailboatError

app = typer.Typer(
    name="mailboat",
    help="Signed model releases for fleets that the network reaches only sometimes.",
    epilog=output.EXIT_CODES_HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # it would print local variables, tokens among them
)
app.command("init")(data.init)
app.command("serve")(data.serve)
app.command("demo")(demo.demo)
app.add_typer(trust.app, name="trust")
release.app.command("list")(releases.list_releases)
app.add_typer(release.app, name="release")
app.add_typer(data.credential, name="credential")
app.add_typer(device.app, name="device")
app.add_typer(hardware_class.app, name="class")
app.add_typer(rollout.app, name="rollout")
app.add_typer(audit.app, name="audit")


def main() -> None:
    """Run one command; our errors become an exit code, a message and a next step."""
    try:
        app()
    except MailboatError as error:
        output.show_error(error, as_json="--json" in sys.argv)
        sys.exit(output.exit_code_of(error))

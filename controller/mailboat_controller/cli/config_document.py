"""``mailboat config``: values for applications, signed for a class, a site or a device."""

from typing import TYPE_CHECKING

import typer

from mailboat_controller.cli import output
from mailboat_controller.cli.fleet_document_commands import Commands

if TYPE_CHECKING:
    from mailboat_schemas.documents.config import ConfigDocument

app = typer.Typer(
    no_args_is_help=True,
    help="Config: values for applications, signed for a class, a site or a device.",
    epilog=output.examples(
        "mailboat config diff kiosk.yaml",
        'mailboat config approve kiosk.yaml --key config.pem --reason "new camera"',
        "mailboat config list",
        "mailboat config list class kiosk-x86",
        'mailboat config rollback class kiosk-x86 1.3.0 --key config.pem --reason "too bright"',
    ),
)


def _kind() -> "type[ConfigDocument]":
    from mailboat_schemas.documents.config import ConfigDocument

    return ConfigDocument


Commands("config", "class, site or device", _kind).add_to(app)

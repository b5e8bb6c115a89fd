"""``mailboat policy``: when devices may switch, signed for a class or a site."""

from typing import TYPE_CHECKING

import typer

from mailboat_controller.cli import output
from mailboat_controller.cli.fleet_document_commands import Commands

if TYPE_CHECKING:
    from mailboat_schemas.documents.policy import PolicyDocument

app = typer.Typer(
    no_args_is_help=True,
    help="Policy: when devices may switch and how far behind they may be, signed.",
    epilog=output.examples(
        "mailboat policy diff kiosk.yaml",
        'mailboat policy approve kiosk.yaml --key policy.pem --reason "opening hours"',
        "mailboat policy list",
        "mailboat policy list class kiosk-x86",
        'mailboat policy rollback class kiosk-x86 1.3.0 --key policy.pem --reason "too narrow"',
    ),
)


def _kind() -> "type[PolicyDocument]":
    from mailboat_schemas.documents.policy import PolicyDocument

    return PolicyDocument


Commands("policy", "class or site", _kind).add_to(app)

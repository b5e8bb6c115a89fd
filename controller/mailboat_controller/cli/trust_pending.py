"""``mailboat trust show|sign|submit|rebase``: a pending change on its way between the signers.

`show` and `sign` need no network and no controller: copy the file to wherever the keys are.
"""

from pathlib import Path
from typing import Annotated

import typer

from mailboat_controller.cli import options, trust_source

KnownRoot = Annotated[
    Path | None,
    typer.Option("--root", help="Your own copy of the newest root: the file must build on it."),
]
PendingFile = Annotated[Path, typer.Argument(metavar="PENDING", help="The pending change.")]


def show(pending: PendingFile, root: KnownRoot = None, as_json: options.Json = False) -> None:
    """What would change, who has signed, and who is missing. Read it before you sign."""
    found = trust_source.read(pending, root)
    then = f"Next: mailboat trust sign {pending} --key KEY"
    trust_source.tell(found, pending, then, as_json=as_json)


def sign(
    pending: PendingFile,
    key: Annotated[
        list[str], typer.Option(help="A path, fd:N, env:NAME or pkcs11:…; may be repeated.")
    ],
    root: KnownRoot = None,
    as_json: options.Json = False,
) -> None:
    """Add signatures to a pending change. Needs no network."""
    from mailboat_controller.authority.pending import write_pending

    found = trust_source.read(pending, root)
    trust_source.sign(found, key)
    write_pending(pending, found)
    then = f"Next: carry {pending} to whoever signs next"
    trust_source.tell(found, pending, then, as_json=as_json)


def submit(
    pending: PendingFile,
    reason: options.Reason,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Hand a complete change to the controller, which verifies it as every device will."""
    taken = trust_source.submit(trust_source.read(pending, None), reason, connection)
    trust_source.tell_taken(taken, as_json=as_json)


def rebase(
    pending: PendingFile,
    out: trust_source.Out,
    source: trust_source.From = None,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Make the same change again on the roles in force, after `submit` said E-REBASE.

    Everybody signs the new file: what they signed before is something else.
    """
    from mailboat_controller.authority.rebasing import rebase as rebased

    found = trust_source.read(pending, None)
    draft = trust_source.draft(source, connection)
    change = rebased(found, draft.held, draft.now)
    trust_source.write_request(change, out, as_json=as_json)

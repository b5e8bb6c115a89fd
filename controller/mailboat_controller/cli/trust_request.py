"""``mailboat trust add-key|remove-key|rotate|threshold|add-model|renew``: asking for a change.

Each writes a pending file that the holders of the keys sign, see `trust_pending`.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mailboat_controller.cli import options, trust_source
from mailboat_schemas.errors import ConfigurationInvalid

if TYPE_CHECKING:
    from securesystemslib.signer import Key

Role = Annotated[str, typer.Argument(help="root, targets, approval-vad, snapshot …")]


def add_key(
    role: Role,
    public_key: Annotated[Path, typer.Option("--public-key", help="The new key's .pub file.")],
    out: trust_source.Out,
    threshold: trust_source.Threshold = None,
    source: trust_source.From = None,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Let one more key sign a role."""
    from mailboat_controller.authority import changes
    from mailboat_controller.authority.public_keys import read_public_key

    key = read_public_key(public_key)
    draft = trust_source.draft(source, connection)
    changes.add_key(draft, role, key, threshold)
    trust_source.write_request(draft, out, as_json=as_json)


def remove_key(
    role: Role,
    keyid: Annotated[str, typer.Argument(help="Its id, or the first 8 characters or more.")],
    out: trust_source.Out,
    threshold: trust_source.Threshold = None,
    source: trust_source.From = None,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Let a key sign a role no more: it was lost, stolen, or its holder has left."""
    from mailboat_controller.authority import changes

    draft = trust_source.draft(source, connection)
    changes.remove_key(draft, role, keyid, threshold)
    trust_source.write_request(draft, out, as_json=as_json)


def rotate(
    roles: Annotated[list[str], typer.Argument(metavar="ROLE…", help="One role or several.")],
    to: Annotated[
        list[Path],
        typer.Option(help="A .pub file, repeated for k of n, or a directory of <role>.pub files."),
    ],
    out: trust_source.Out,
    threshold: trust_source.Threshold = None,
    source: trust_source.From = None,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Replace all keys of a role, or of several at once.

    After a theft of the controller: `mailboat trust online-keys` there, then
    `mailboat trust rotate snapshot timestamp director --to DIR-WITH-THE-PUB-FILES`.
    """
    keys = {role: _keys_for(role, to, alone=len(roles) == 1) for role in roles}
    draft = trust_source.draft(source, connection)
    for role, found in keys.items():
        wanted = threshold
        if wanted is None:
            # Two of three become two of two, not three of two.
            wanted = min(draft.threshold_of(role), len(found))
        draft.set_keys(role, found, wanted)
    trust_source.write_request(draft, out, as_json=as_json)


def set_threshold(
    role: Role,
    number: Annotated[int, typer.Argument(min=1, help="How many of its keys must sign.")],
    out: trust_source.Out,
    source: trust_source.From = None,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Change how many of a role's keys must sign."""
    draft = trust_source.draft(source, connection)
    draft.set_keys(role, list(draft.keys_of(role).values()), number)
    trust_source.write_request(draft, out, as_json=as_json)


def add_model(
    model: Annotated[str, typer.Argument(help="A model that is new.")],
    release_key: Annotated[list[Path], typer.Option(help="The pipeline's .pub file.")],
    approval_key: Annotated[list[Path], typer.Option(help="An approver's .pub file; repeat.")],
    out: trust_source.Out,
    threshold: Annotated[int, typer.Option(min=1, help="How many approvers must sign.")] = 1,
    source: trust_source.From = None,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Say who may release and who may approve a new model."""
    from mailboat_controller.authority.public_keys import read_public_key

    release_keys = [read_public_key(path) for path in release_key]
    approval_keys = [read_public_key(path) for path in approval_key]
    draft = trust_source.draft(source, connection)
    draft.add_model(
        model, release_keys=release_keys, approval_keys=approval_keys, threshold=threshold
    )
    trust_source.write_request(draft, out, as_json=as_json)


def renew(
    roles: Annotated[list[str], typer.Argument(metavar="ROLE…", help="One role or several.")],
    key: Annotated[
        list[str] | None, typer.Option(help="Sign with it and submit; repeat for k of n.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write a pending change for others to sign.")
    ] = None,
    reason: options.Reason = "renewed before it expires",
    source: trust_source.From = None,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """Give roles a later expiry, with the same contents.

    With enough keys it is signed and submitted at once: `mailboat trust renew approval-vad --key
    KEY` is what an approver does every month.
    """
    from mailboat_controller.authority.pending import Pending

    if not key and out is None:
        raise ConfigurationInvalid(
            "Nobody is there to sign.",
            next_step="name a key with --key, or a file for the signers with --out.",
        )
    draft = trust_source.draft(source, connection)
    for role in roles:
        draft.renew(role)
    if out is not None:
        trust_source.write_request(draft, out, keys=key or (), as_json=as_json)
        return
    pending = Pending.of(draft.held, draft.finish())
    trust_source.sign(pending, key or ())
    if pending.missing():
        raise ConfigurationInvalid(
            f"Signatures are missing. {'. '.join(pending.missing())}.",
            next_step="repeat --key, or write the change for the others with --out.",
        )
    trust_source.tell_taken(trust_source.submit(pending, reason, connection), as_json=as_json)


def _keys_for(role: str, paths: list[Path], *, alone: bool) -> "list[Key]":
    from mailboat_controller.authority.public_keys import SUFFIX, read_public_key

    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found.append(path / f"{role}{SUFFIX}")
        elif alone:
            found.append(path)
        else:
            raise ConfigurationInvalid(
                f"{path} could be meant for any of the roles.",
                next_step="rotate one role at a time, or name a directory with <role>.pub files.",
            )
    return [read_public_key(path) for path in found]

"""What signing commands have in common: what is to be signed is shown, somebody is asked, and what
others must sign too is kept for them."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mailboat_controller.cli import output
from mailboat_schemas.errors import ConfigurationInvalid

if TYPE_CHECKING:
    from mailboat_controller.authority.pending import Pending

Keys = Annotated[
    list[str], typer.Option("--key", help="An approver's key, as a source; repeat for k-of-n.")
]
PendingOption = Annotated[
    Path | None,
    typer.Option("--pending", help="Where to keep it while other approvers have to sign."),
]
TrustRoot = Annotated[
    Path | None,
    typer.Option(help="Your own copy of the newest root.json, to check what the controller says."),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; you have read it.")]


def show_and_ask(lines: Iterable[str], question: str, *, yes: bool, as_json: bool) -> None:
    """Go on only if somebody says yes to what was shown.

    Raises:
        ConfigurationInvalid: nobody is there to say it.
    """
    show(lines, yes=yes, as_json=as_json)
    ask(question, yes=yes)


def show(lines: Iterable[str], *, yes: bool, as_json: bool) -> None:
    """On standard error: standard output is the command's answer. Nobody signs unseen: only a
    program that says yes beforehand is spared it."""
    if not (yes and as_json):
        print(*(output.plain_text(line) for line in lines), sep="\n", file=sys.stderr)


def ask(question: str, *, yes: bool) -> None:
    """
    Raises:
        ConfigurationInvalid: nobody is there to answer.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigurationInvalid(
            "There is nobody to ask.", next_step="read what is shown, then add --yes."
        )
    typer.confirm(question, abort=True, err=True)


def sign(
    draft: "Pending", sources: list[str], pending: Path | None, *, then: str, as_json: bool
) -> bool:
    """Whether everybody has signed now who must. Otherwise it is kept for those who have not.

    Args:
        then: the command that hands it in, for the person.

    Raises:
        ConfigurationInvalid: others must sign, and there is no place to keep it.
    """
    from mailboat_controller.authority.keys import open_signer
    from mailboat_controller.authority.pending import write_pending

    for source in sources:
        draft.sign(open_signer(source))
    missing = draft.missing()
    if not missing:
        return True
    if pending is None:
        raise ConfigurationInvalid(
            f"Others have to sign too. {'. '.join(missing)}.",
            next_step="repeat --key, or keep it for them with --pending FILE.",
        )
    write_pending(pending, draft)
    output.tell(
        {"pending": str(pending), "missing": missing},
        f"Signed, and kept in {pending}. Still missing: {'; '.join(missing)}\n"
        f"Next: mailboat trust sign {pending} --key KEY, then {then}",
        as_json=as_json,
    )
    return False


def read_root(path: Path) -> bytes:
    """
    Raises:
        ConfigurationInvalid: it cannot be read.
    """
    from mailboat_schemas.trust import ROLE_BYTES_MAX

    try:
        with path.open("rb") as file:
            return file.read(ROLE_BYTES_MAX)
    except OSError as error:
        raise ConfigurationInvalid(
            f"{path} cannot be read: {error.strerror}.", next_step="check --trust-root."
        ) from error

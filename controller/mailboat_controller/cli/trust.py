"""``mailboat trust``: the keys and roles everything else stands on."""

import re
from pathlib import Path
from typing import Annotated

import typer

from mailboat_controller.cli import options, output
from mailboat_schemas.errors import ConfigurationInvalid

app = typer.Typer(no_args_is_help=True, help="Keys and roles: who may release, approve, assign.")


def _quorum(text: str) -> tuple[int, int]:
    """``2-of-3`` as (threshold, keys)."""
    found = re.fullmatch(r"([0-9]{1,3})-of-([0-9]{1,3})", text)
    if found is None:
        raise ConfigurationInvalid(
            f"{text!r} is not a quorum.", next_step="write k-of-n, such as 2-of-3."
        )
    return int(found[1]), int(found[2])


@app.command()
def init(
    directory: Annotated[Path, typer.Argument(help="a new directory for all keys and roles")],
    model: Annotated[list[str], typer.Option("--model", help="a model; may be repeated")],
    root: Annotated[str, typer.Option(help="root keys, k-of-n")] = "1-of-1",
    targets: Annotated[str, typer.Option(help="targets keys, k-of-n")] = "1-of-1",
    approval: Annotated[str, typer.Option(help="approver keys of each model")] = "1-of-1",
    as_json: options.Json = False,
) -> None:
    """Make every key and version 1 of every role, sorted by who may hold them.

    Set MAILBOAT_KEY_PASSPHRASE to encrypt the offline, CI and approver keys. The controller's own
    keys stay unencrypted: it starts without a person.
    """
    import os

    from mailboat_controller.authority.ceremony import Ceremony, Quorum, hold
    from mailboat_controller.authority.keys import PASSPHRASE_VARIABLE

    quorums = {}
    for role, text in (("root", root), ("targets", targets), ("approval", approval)):
        threshold, keys = _quorum(text)
        quorums[role] = Quorum(threshold=threshold, keys=keys)
    passphrase = os.environ.get(PASSPHRASE_VARIABLE)
    ceremony = Ceremony(
        models=tuple(model),
        root=quorums["root"],
        targets=quorums["targets"],
        approval=quorums["approval"],
        passphrase=passphrase.encode() if passphrase else None,
    )
    factory_root = hold(ceremony, directory, options.now())
    output.tell(
        {
            "directory": str(directory),
            "factory_root": str(factory_root),
            "models": model,
            "encrypted": bool(passphrase),
        },
        f"Keys and roles for {', '.join(model)} are in {directory}.\n"
        f"  {directory}/offline      carry away and keep apart\n"
        f"  {directory}/ci           to the pipeline that releases\n"
        f"  {directory}/approver     to the people who approve\n"
        f"  {directory}/controller   to the controller: "
        f"mailboat init --trust {directory}/controller\n"
        f"  {factory_root}   to every device (the enrolment kit carries it)",
        as_json=as_json,
    )

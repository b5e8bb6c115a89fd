"""``mailboat trust``: the keys and roles everything else stands on."""

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from mailboat_controller.cli import options, output, trust_source
from mailboat_schemas.errors import ConfigurationInvalid

app = typer.Typer(
    no_args_is_help=True,
    help="Keys and roles: who may release, approve, assign.",
    epilog=output.examples(
        "mailboat trust init trust --model heat --root 2-of-3 --targets 2-of-3",
        "mailboat trust add-key root --public-key anna.pub --out change.json",
        "mailboat trust sign change.json --key root-1.pem",
        'mailboat trust submit change.json --reason "anna joins"',
    ),
)


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
    directory: Annotated[Path, typer.Argument(help="A new directory for all keys and roles.")],
    model: Annotated[list[str], typer.Option("--model", help="A model; may be repeated.")],
    root: Annotated[str, typer.Option(help="Root keys, k-of-n.")] = "1-of-1",
    targets: Annotated[str, typer.Option(help="Targets keys, k-of-n.")] = "1-of-1",
    approval: Annotated[str, typer.Option(help="Approver keys of each model.")] = "1-of-1",
    as_json: options.Json = False,
) -> None:
    """Make every key and version 1 of every role, sorted by who may hold them.

    Set MAILBOAT_KEY_PASSPHRASE, or MAILBOAT_KEY_PASSPHRASE_FILE, to encrypt all keys but the
    controller's own: it starts without a person.
    """
    from mailboat_controller.authority.ceremony import Ceremony, Quorum, hold
    from mailboat_controller.authority.keys import known_passphrase

    quorums = {}
    for role, text in (("root", root), ("targets", targets), ("approval", approval)):
        threshold, keys = _quorum(text)
        quorums[role] = Quorum(threshold=threshold, keys=keys)
    passphrase = known_passphrase()
    ceremony = Ceremony(
        models=tuple(model),
        root=quorums["root"],
        targets=quorums["targets"],
        approval=quorums["approval"],
        passphrase=passphrase,
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
        f"  {directory}/fleet        to those who decide for the whole fleet\n"
        f"  {directory}/controller   to the controller: "
        f"mailboat init --trust {directory}/controller\n"
        f"  {factory_root}   to every device (the enrolment kit carries it)",
        as_json=as_json,
    )


_COLUMNS = {
    "role": "ROLE",
    "version": "VERSION",
    "expires": "EXPIRES",
    "days_left": "DAYS LEFT",
    "level": "LEVEL",
    "signers": "SIGNERS",
    "next_step": "NEXT STEP",
}


@app.command()
def status(
    source: trust_source.From = None,
    connection: options.ConnectionOption = None,
    as_json: options.Json = False,
) -> None:
    """When each role expires, who may sign it, and what to do. Exit code 3: something needs you."""
    content = _status_of(source) if source else _status_at(connection)
    if as_json:
        output.show_json(content)
    else:
        rows = [*content["roles"], *content["certificates"]]
        output.show_rows([_row(each) for each in rows], _COLUMNS, as_json=False)
    if content["attention"]:
        raise typer.Exit(output.EXIT_DIFFERENT)


def _status_at(connection: Path | None) -> dict[str, Any]:
    with options.client(connection) as api:
        found: dict[str, Any] = api.get("/v1/trust/status")
    return found


def _status_of(directory: Path) -> dict[str, Any]:
    from dataclasses import asdict

    from mailboat_controller.trust import expiry
    from mailboat_controller.trust.role_files import read_roles

    found = expiry.role_statuses(read_roles(directory), options.now())
    return {
        "attention": expiry.needs_attention(found),
        "roles": [asdict(each) for each in found],
        "certificates": [],
    }


def _row(status: dict[str, Any]) -> dict[str, Any]:
    name = status.get("role") or f"certificate: {status['certificate']}"
    keys = status.get("keys") or ()
    signers = f"{status['threshold']} of {', '.join(keys)}" if keys else "-"
    return {"version": "-", **status, "role": name, "signers": signers}

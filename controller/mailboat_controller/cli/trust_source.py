"""Where the commands of ``mailboat trust`` take the roles in force from, and put changes to."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mailboat_controller.cli import options, output
from mailboat_schemas.errors import ConfigurationInvalid, Conflict

if TYPE_CHECKING:
    from mailboat_controller.authority.changes import Draft
    from mailboat_controller.authority.pending import Pending

From = Annotated[
    Path | None,
    typer.Option(
        "--from",
        help="Directory with the roles as files; without it, the controller is asked.",
        show_default=False,
    ),
]
Out = Annotated[Path, typer.Option("--out", help="The pending change, as a new file.")]
Threshold = Annotated[
    int | None,
    typer.Option("--threshold", min=1, help="How many of them must sign; without it, as now."),
]


def draft(source: Path | None, connection: Path | None) -> "Draft":
    """On the roles in force, by the command line's clock."""
    from mailboat_controller.authority.changes import Draft
    from mailboat_controller.trust.role_files import read_roles

    held = fetch_roles(connection) if source is None else read_roles(source)
    return Draft(held, options.now())


def fetch_roles(connection: Path | None) -> dict[str, bytes]:
    """Newest bytes of every role that the controller holds."""
    with options.client(connection) as api:
        names = [each["role"] for each in api.get("/v1/trust/status")["roles"]]
        return {role: api.role(role) for role in names}


def write_request(change: "Draft", out: Path, *, keys: Sequence[str] = (), as_json: bool) -> None:
    """The pending file, signed with what keys there are, and what to do with it."""
    from mailboat_controller.authority.pending import Pending, write_pending

    if out.exists():
        raise Conflict(
            f"There is a file {out} already.",
            next_step="name another: it may be on its way between signers.",
        )
    pending = Pending.of(change.held, change.finish())
    sign(pending, keys)
    write_pending(out, pending)
    tell(pending, out, f"Next: mailboat trust sign {out} --key KEY", as_json=as_json)


def tell(pending: "Pending", path: Path, then: str, *, as_json: bool) -> None:
    """What would change, who has signed, who is missing."""
    missing = pending.missing()
    content = {
        "pending": str(path),
        "roles": {role: each.signed.version for role, each in pending.roles.items()},
        "changes": pending.changes(),
        "afterwards": pending.quorums(),
        "signed_by": pending.signers(),
        "missing": missing,
        "complete": not missing,
    }
    lines = [
        *pending.changes(),
        *(f"Afterwards {each}" for each in pending.quorums()),
        f"Signed by  {', '.join(pending.signers()) or 'nobody yet'}",
        *(f"Missing    {each}" for each in missing),
        then if missing else f"Complete. Next: mailboat trust submit {path} --reason WHY",
    ]
    output.tell(content, "\n".join(lines), as_json=as_json)


def read(path: Path, root: Path | None) -> "Pending":
    """A pending change, which must build on the signer's own copy of the root if there is one."""
    from mailboat_controller.authority.pending import read_pending
    from mailboat_schemas.trust import ROLE_BYTES_MAX

    found = read_pending(path)
    if root is not None:
        try:
            with root.open("rb") as file:
                found.require_root(file.read(ROLE_BYTES_MAX))
        except OSError as error:
            raise ConfigurationInvalid(
                f"{root} cannot be read: {error.strerror}.", next_step="check --root."
            ) from error
    return found


def submit(pending: "Pending", reason: str, connection: Path | None) -> dict[str, Any]:
    """Hand a complete change to the controller.

    Raises:
        RebaseNeeded: somebody was faster. TrustRefused, OperatorNeeded: what the controller says.
    """
    # Its refusals come back as the errors they are only where those are known.
    from mailboat_controller.trust import role_intake

    roles = pending.submission()
    assert len(roles) <= role_intake.ROLES_MAX  # noqa: S101  a pending file has the same bound
    content = {role: base64.b64encode(each).decode() for role, each in roles.items()}
    with options.client(connection) as api:
        taken: dict[str, Any] = api.post("/v1/trust/roles", {"roles": content, "reason": reason})
    return taken


def tell_taken(taken: dict[str, Any], *, as_json: bool) -> None:
    output.tell(taken, "\n".join(("Taken.", *taken["changes"])), as_json=as_json)


def sign(pending: "Pending", sources: Sequence[str]) -> list[str]:
    """With every key; returns the roles that got a signature."""
    from mailboat_controller.authority.keys import open_signer

    return sorted({role for source in sources for role in pending.sign(open_signer(source))})

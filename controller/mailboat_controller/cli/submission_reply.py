"""How the answer to a submission ends a command."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from mailboat_controller.cli import output
from mailboat_schemas.errors import ConfigurationInvalid

if TYPE_CHECKING:
    from mailboat_schemas.submission import SubmissionReply

# How a refused submission ends the command; anything else is a plain failure.
_EXIT_CODES = {
    "E-SIGNATURE": output.EXIT_TRUST,
    "E-THRESHOLD": output.EXIT_TRUST,
    "E-REBASE": output.EXIT_CONFLICT,
    "E-IMMUTABLE": output.EXIT_CONFLICT,
    "E-CONFLICT": output.EXIT_CONFLICT,
    "E-ARTIFACT-MISSING": output.EXIT_NOT_FOUND,
    "E-CONTENT-KEY-MISSING": output.EXIT_NOT_FOUND,
}


def answer(reply: "SubmissionReply", uploaded: int, as_json: bool) -> None:
    """
    Raises:
        typer.Exit: it was not accepted.
    """
    reasons = "".join(f"\n  {reason}" for reason in reply.reasons)
    known = (
        ", ".join((*reply.releases, *reply.rollouts, *reply.documents))
        or reply.code
        or "nothing new"
    )
    output.tell(
        {**reply.model_dump(mode="json"), "uploaded": uploaded},
        f"{reply.status}: {known}{reasons}",
        as_json=as_json,
    )
    if reply.status != "accepted":
        raise typer.Exit(_EXIT_CODES.get(reply.code, output.EXIT_FAILURE))


def write_submission(path: Path, content: bytes, as_json: bool) -> None:
    """
    Raises:
        ConfigurationInvalid: it cannot be written.
    """
    try:
        path.write_bytes(content)
    except OSError as error:
        raise ConfigurationInvalid(
            f"{path} cannot be written: {error.strerror}.", next_step="check --only-write."
        ) from error
    output.tell({"path": str(path)}, f"The submission is in {path}.", as_json=as_json)

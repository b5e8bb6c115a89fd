"""A change of what was read: ``ETag`` and ``If-Match`` (RFC 9110, section 13.1.1)."""

import hashlib
import json
from typing import Annotated, Any

from fastapi import Header

from mailboat_controller.api import etags
from mailboat_schemas.errors import Conflict

IF_MATCH_CHARS_MAX = 1000

IfMatch = Annotated[
    str | None,
    Header(
        max_length=IF_MATCH_CHARS_MAX,
        description="the ETag of what is to be changed; refused if it is another by now",
        examples=["*"],
    ),
]


class PreconditionFailed(Conflict):
    """Somebody else was quicker."""

    code = "E-PRECONDITION"


def tag_of(content: Any) -> str:
    """A strong tag of a document: the sha256 of its JSON with sorted keys."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def refuse_another(wanted: str | None, held: Any, what: str) -> None:
    """
    Args:
        wanted: the header's value.
        held: what is there now as JSON; None: nothing.

    Raises:
        PreconditionFailed
    """
    if wanted is None:
        return
    tags = {each.strip() for each in wanted.split(",")}
    if held is not None and ("*" in tags or etags.quoted(tag_of(held)) in tags):
        return
    raise PreconditionFailed(
        f"{what} is not what the request was made for.",
        next_step="read it again, look at what changed, and send the change for the new ETag.",
    )

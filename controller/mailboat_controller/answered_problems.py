"""A refusal of the controller as the error it was there, with its code and next step."""

import json
from collections.abc import Mapping
from http import HTTPStatus

from mailboat_schemas.errors import (
    Conflict,
    MailboatError,
    NotFound,
    NotPermitted,
    OperatorNeeded,
    ServerUnavailable,
    Transient,
)

ERROR_CODE_HEADER = "mailboat-error-code"  # of answers without a body

# Of refusals that an answer without a body can only name.
_NEXT_STEPS = {
    "E-REVOKED": "issue a new credential, if this holder should be let in again.",
    "E-NOT-PERMITTED": "use a connection of a kind that may do this.",
    "E-TOKEN-EXPIRED": "ask for a new token: `mailboat token issue` on the controller's machine.",
    "E-TOKEN-REVOKED": "ask for a new token: `mailboat token issue` on the controller's machine.",
}

_BY_STATUS: Mapping[int, type[MailboatError]] = {
    HTTPStatus.UNAUTHORIZED: NotPermitted,
    HTTPStatus.FORBIDDEN: NotPermitted,
    HTTPStatus.NOT_FOUND: NotFound,
    HTTPStatus.CONFLICT: Conflict,
    HTTPStatus.PRECONDITION_FAILED: Conflict,
    HTTPStatus.TOO_MANY_REQUESTS: ServerUnavailable,
    HTTPStatus.SERVICE_UNAVAILABLE: ServerUnavailable,
    HTTPStatus.INSUFFICIENT_STORAGE: ServerUnavailable,
}


def problem_in(status: int, headers: Mapping[str, str], body: bytes) -> MailboatError:
    """The server's error as the class it has here, or as its branch where we do not know it."""
    try:
        content = json.loads(body)
        code, what, next_step = (str(content[key]) for key in ("code", "detail", "next_step"))
    except (ValueError, KeyError, TypeError):
        # A HEAD has no body; a proxy in between speaks no problem+json.
        code = headers.get(ERROR_CODE_HEADER, "")
        what = f"The controller answered {status}{code and f' ({code})'}."
        next_step = _NEXT_STEPS.get(code, "look at the controller's log.")
    kind = _leaves().get(code) or _BY_STATUS.get(status, OperatorNeeded)
    error = kind.__new__(kind)  # leaves have parameters of their own; the words are made already
    if isinstance(error, Transient):
        Transient.__init__(error, what, next_step=next_step)
    else:
        MailboatError.__init__(error, what, next_step=next_step)
    return error


def _leaves() -> dict[str, type[MailboatError]]:
    found: dict[str, type[MailboatError]] = {}
    waiting = list(MailboatError.__subclasses__())
    while waiting:
        kind = waiting.pop()
        found.setdefault(kind.code, kind)
        waiting += kind.__subclasses__()
    return found

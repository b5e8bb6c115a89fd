"""What a server's refusal means for whoever asked, as errors of ours."""

from datetime import timedelta
from http import HTTPStatus

from mailboat_schemas.errors import (
    ArtifactMissing,
    ConfigurationInvalid,
    Conflict,
    DownloadInterrupted,
    MailboatError,
    NotPermitted,
    ServerUnavailable,
)

RETRY_AFTER_SECONDS_MAX = 3600  # a server that asks for more is not believed
CONTROLLER = "the controller"
_BUSY = frozenset({HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS})


class ServerBusy(ServerUnavailable):
    """Back-pressure: it asks to wait ``retry_after``. That is no failure of anything."""

    code = "E-SERVER-BUSY"

    def __init__(self, server: str, retry_after: timedelta) -> None:
        super().__init__(
            f"{server} asks to wait {retry_after.total_seconds():.0f} s",
            next_step="nothing, the device waits as long as it is asked to; if it repeats for "
            "hours, look at the server's load.",
            retry_after=retry_after,
        )


def refusal(
    status: int, path: str, said: str, retry_after: str, server: str = CONTROLLER
) -> MailboatError:
    """The error for a status that is none of those asked for.

    Args:
        path: what was asked for, without a query: that of an object store is a secret.
        said: the beginning of the answer's body.
        retry_after: that header.
        server: who refused, as part of a sentence.
    """
    what = f"{path} was answered with {status} {said}".strip() + "."
    match status:
        case HTTPStatus.NOT_FOUND | HTTPStatus.GONE:
            next_step = "nothing, if it is still being uploaded or published; else upload it again."
            return ArtifactMissing(what, next_step=next_step)
        case HTTPStatus.UNAUTHORIZED | HTTPStatus.FORBIDDEN:
            next_step = "check that the device is not revoked; enrol it again with a new token."
            return NotPermitted(what, next_step=next_step)
        case HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return interrupted("the server cannot resume there", server=server)
        case HTTPStatus.CONFLICT:
            next_step = "choose another device name, or revoke the device that has this one."
            return Conflict(what, next_step=next_step)
        case HTTPStatus.BAD_REQUEST | HTTPStatus.UNPROCESSABLE_ENTITY:
            next_step = "compare the versions of agent and controller, and the enrolment kit."
            return ConfigurationInvalid(what, next_step=next_step)
    asked = _wait(retry_after)
    if status in _BUSY and asked is not None:
        return ServerBusy(server, asked)
    return ServerUnavailable(
        what,
        next_step="nothing, the device tries again; if it repeats, look at the server's log.",
        retry_after=asked,
    )


def interrupted(
    problem: str,
    kind: type[DownloadInterrupted] = DownloadInterrupted,
    *,
    server: str = CONTROLLER,
) -> DownloadInterrupted:
    return kind(
        f"A transfer from {server} was interrupted: {problem}.",
        next_step="nothing; it goes on where it stopped.",
    )


def _wait(retry_after: str) -> timedelta | None:
    """Seconds only: a date would need a clock that is right."""
    if not (retry_after.isascii() and retry_after.isdecimal()):
        return None
    return timedelta(seconds=min(int(retry_after[:9]), RETRY_AFTER_SECONDS_MAX))

"""Submissions over HTTPS: the same bytes that MQTT carries, the same answer."""

from typing import Annotated

from fastapi import APIRouter, Body, Response

from mailboat_controller.access.people import Role
from mailboat_controller.api.context import Context
from mailboat_controller.api.etags import MSGPACK
from mailboat_controller.api.identity import Caller, Person, Submitter
from mailboat_schemas.codec import decode
from mailboat_schemas.errors import MalformedPayload, NotPermitted, PayloadTooLarge
from mailboat_schemas.submission import Submission, SubmissionReply, submission_bytes
from mailboat_schemas.trust import FLEET_ROLES

STATUS = {"accepted": 200, "rejected": 422, "retry": 409}
APPROVAL_PREFIX = "approval-"  # of the roles that say what may run

router = APIRouter(prefix="/v1/submissions", tags=["releases"])


@router.post("", responses={409: {"model": SubmissionReply}, 422: {"model": SubmissionReply}})
def submit(
    content: Annotated[bytes, Body(media_type=MSGPACK)],
    response: Response,
    submitter: Submitter,
    context: Context,
) -> SubmissionReply:
    """Verify and take signed roles and documents, all or nothing. The same bytes again get the
    same answer; ``retry`` (409) means: upload what is missing, then send these bytes again.

    An operator hands in releases, an approver approvals, a pipeline both; what counts is in any
    case the signature."""
    if len(content) > Submission.wire_bytes_max:
        raise PayloadTooLarge("submission", len(content), Submission.wire_bytes_max)
    _refuse_other_roles(submitter, content)
    reply = context.submit(content, str(submitter))
    response.status_code = STATUS[reply.status]
    return reply


def _refuse_other_roles(submitter: Caller, content: bytes) -> None:
    """Defence in depth: a stolen operator token and a stolen key are still one theft too few."""
    if not isinstance(submitter, Person):
        return
    try:
        roles = decode(Submission, submission_bytes(content)).roles
    except MalformedPayload:
        return  # admission refuses it, and says why
    approves = submitter.role is Role.APPROVER
    others = sorted(name for name in roles if _is_approvers(name) != approves)
    if others:
        raise NotPermitted(
            f"{submitter} may not hand in {', '.join(others)}.",
            next_step="approvals, config and policy come from an approver, releases from an "
            "operator, all of them from a pipeline.",
        )


def _is_approvers(role: str) -> bool:
    return role.startswith(APPROVAL_PREFIX) or role in FLEET_ROLES

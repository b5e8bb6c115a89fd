"""Submissions over HTTPS: the same bytes that MQTT carries, the same answer."""

from typing import Annotated

from fastapi import APIRouter, Body, Response

from mailboat_controller.api.context import Context
from mailboat_controller.api.etags import MSGPACK
from mailboat_controller.api.identity import Publisher
from mailboat_schemas.errors import PayloadTooLarge
from mailboat_schemas.submission import Submission, SubmissionReply

STATUS = {"accepted": 200, "rejected": 422, "retry": 409}

router = APIRouter(prefix="/v1/submissions", tags=["releases"])


@router.post("")
def submit(
    content: Annotated[bytes, Body(media_type=MSGPACK)],
    response: Response,
    publisher: Publisher,
    context: Context,
) -> SubmissionReply:
    """Verify and take signed roles and documents, all or nothing. The same bytes again get the
    same answer; ``retry`` (409) means: upload what is missing, then send these bytes again."""
    if len(content) > Submission.wire_bytes_max:
        raise PayloadTooLarge("submission", len(content), Submission.wire_bytes_max)
    reply = context.submit(content, str(publisher))
    response.status_code = STATUS[reply.status]
    return reply

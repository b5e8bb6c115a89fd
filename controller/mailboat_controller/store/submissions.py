"""Accepted submissions and what was answered, so that sending one again changes nothing."""

from datetime import datetime

from sqlalchemy import Connection, insert, select

from mailboat_controller.store import tables
from mailboat_controller.store.instants import to_ms
from mailboat_schemas.submission import SubmissionReply

_submissions = tables.submissions


def put(tx: Connection, sender: str, reply: SubmissionReply, at: datetime) -> None:
    tx.execute(
        insert(_submissions).values(
            digest=reply.submission,
            sender=sender[:128],
            reply=reply.model_dump(mode="json"),
            received_at=to_ms(at),
        )
    )


def reply_to(tx: Connection, digest: str) -> SubmissionReply | None:
    """What was answered to the submission with this sha256, if it was accepted before."""
    content = tx.execute(
        select(_submissions.c.reply).where(_submissions.c.digest == digest)
    ).scalar()
    return None if content is None else SubmissionReply.model_validate(content)

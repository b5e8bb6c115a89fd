"""Taking a submission: judged, recorded and acted on in one transaction, and answered.

Sending the same bytes again changes nothing and gets the same answer.
"""

import hashlib
import time
from datetime import datetime
from functools import partial

import structlog

from mailboat_controller.access.rate_limits import AuditBound
from mailboat_controller.artifacts.artifact_store import ArtifactStore
from mailboat_controller.content.keys import missing_content_key
from mailboat_controller.mqtt.incoming import Incoming
from mailboat_controller.reconcile import Reconciler
from mailboat_controller.recovery.behind import still_behind
from mailboat_controller.releases import fleet_documents
from mailboat_controller.releases import standing as release_standing
from mailboat_controller.releases.approved_plans import take_approval
from mailboat_controller.releases.bundle_room import require_room
from mailboat_controller.releases.retirement import retired_release
from mailboat_controller.store import (
    artifact_life,
    audit,
    content_keys,
    credentials,
    outbox,
    releases,
    submissions,
    trust_roles,
)
from mailboat_controller.store.engine import Store
from mailboat_controller.store.transaction import Transaction
from mailboat_controller.trust.intake import Accepted, Held, Rejected, judge_submission
from mailboat_controller.trust.refusal import Refusal
from mailboat_schemas.codec import decode
from mailboat_schemas.documents.release import File, document_digest
from mailboat_schemas.enrolment import Kind
from mailboat_schemas.errors import (
    MailboatError,
    NotPermitted,
    OperatorNeeded,
    ReleaseRejected,
)
from mailboat_schemas.submission import Submission, SubmissionReply, submission_bytes
from mailboat_schemas.topics import TOPICS, Channel, parse

REASONS_MAX = 50
REFUSALS_AUDITED_PER_MINUTE = 20  # of each sender
STRANGERS = "stranger"  # all together: a broker that lies can name as many pipelines as it likes

_log = structlog.get_logger(__name__)


class Admission:
    """Takes submissions for one fleet."""

    def __init__(
        self, store: Store, reconciler: Reconciler, artifacts: ArtifactStore, fleet: str
    ) -> None:
        self._store = store
        self._reconciler = reconciler
        self._artifacts = artifacts
        self._fleet = fleet
        self._refusals = AuditBound(per_minute=REFUSALS_AUDITED_PER_MINUTE)

    def submit(self, content: bytes, sender: str, now: datetime) -> SubmissionReply:
        """Judge, record and act on a submission; what it says is on disk once this returns.

        Raises:
            Transient: the database cannot take it now; nothing of it was kept.
        """
        content = submission_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        try:
            with self._store.transaction() as tx:
                answered = submissions.reply_to(tx, digest)
                if answered is not None:
                    return answered
                reply = self._judge(tx, content, digest, sender, now)
        except (ReleaseRejected, OperatorNeeded) as error:
            reply = _rejected(digest, error.code, (error.what,))
        if reply.status != "accepted":
            self._record_refusal(reply, sender, now, counted_as=sender)
        _log.info(
            "submission", sender=sender, status=reply.status, code=reply.code, reasons=reply.reasons
        )
        return reply

    def submit_message(self, message: Incoming, now: datetime) -> SubmissionReply:
        """The same for a message on a submit topic, whose pipeline is the sender; the answer is
        queued. A crash before that brings the message again, and the same answer."""
        pipeline = parse(message.topic)["pipeline"]
        with self._store.read() as tx:
            known = credentials.in_force(tx, name=pipeline, kind=Kind.CI, now=now)
        if known:
            reply = self.submit(message.payload, f"ci:{pipeline}", now)
        else:
            reply = self._refuse_stranger(message.payload, pipeline, now)
        topic = _reply_topic(message, self._fleet, pipeline)
        if topic is None:
            _log.warning("submission without a reply topic of its own", pipeline=pipeline)
            return reply
        rule = TOPICS[Channel.REPLY]
        with self._store.transaction() as tx:
            outbox.put(
                tx,
                topic=topic,
                payload=reply.model_dump_json().encode(),
                qos=rule.qos,
                retain=rule.retain,
                correlation_data=message.correlation_data,
                now=now,
            )
        return reply

    def _refuse_stranger(self, content: bytes, pipeline: str, now: datetime) -> SubmissionReply:
        """Whatever the broker let through: only a registered pipeline hands in anything."""
        refusal = NotPermitted(
            f"There is no pipeline {pipeline} with a credential in force.",
            next_step="issue one: `mailboat credential issue --kind ci`.",
        )
        digest = hashlib.sha256(content).hexdigest()
        reply = _rejected(digest, refusal.code, (refusal.what,))
        self._record_refusal(reply, f"ci:{pipeline}", now, counted_as=STRANGERS)
        return reply

    def _judge(
        self, tx: Transaction, content: bytes, digest: str, sender: str, now: datetime
    ) -> SubmissionReply:
        try:
            submission = decode(Submission, content)
        except MailboatError as error:
            return _rejected(digest, error.code, (error.what,))
        held = Held(
            fleet=self._fleet,
            roles=trust_roles.newest(tx),
            documents={row.digest: row.document for row in releases.every(tx)},
            fleet_documents=fleet_documents.in_force_by_digest(tx),
            has_target=partial(fleet_documents.has_target, tx),
            fleet_history=partial(fleet_documents.history_of, tx),
            behind=still_behind(tx),
        )
        judged = judge_submission(submission, held, self._has_artifact, now)
        if isinstance(judged, Rejected):
            return _rejected(
                digest,
                judged.code,
                judged.reasons,
                missing=judged.missing_artifacts,
                retry=judged.retry,
            )
        missing_keys = sorted(
            key_id
            for document in judged.releases
            for key_id in document.content_keys
            if not content_keys.has(tx, key_id)
        )
        if missing_keys:  # every device would load an encrypted release and could not open it
            reason = missing_content_key(missing_keys[0])
            return _rejected(digest, reason.code, (str(reason),), retry=True)
        try:
            require_room(tx, judged.roles, submission.documents)
        except Refusal as too_much:
            return _rejected(digest, too_much.code, (too_much.reason,))
        gone = artifact_life.retired(tx)
        for approval in judged.approvals:
            if approval.digest in gone:
                refusal = retired_release(approval.model, approval.version)
                return _rejected(digest, refusal.code, (str(refusal),))
        return self._accept(tx, judged, submission, digest, sender, now)

    def _has_artifact(self, file: File) -> bool:
        return self._artifacts.has(file.artifact_digest, file.artifact_length)

    def _accept(
        self,
        tx: Transaction,
        accepted: Accepted,
        submission: Submission,
        digest: str,
        sender: str,
        now: datetime,
    ) -> SubmissionReply:
        for role, content in accepted.roles.items():
            trust_roles.put(tx, role, accepted.versions[role], content, now)
        for document in accepted.releases:
            content = document.canonical_bytes()
            releases.put(
                tx,
                digest=document_digest(content),
                model=document.model,
                version=document.version,
                document=content,
                at=now,
            )
        fleet_documents.take(
            tx,
            accepted.fleet,
            fleet=self._fleet,
            sign=self._reconciler.sign_order,
            sender=sender,
            reason=submission.reason,
            now=now,
        )
        release_standing.record(tx, accepted, submission.reason, sender, now)
        created, notes = [], []
        for approval in accepted.approvals:
            note = take_approval(tx, approval, sender, now)
            if note is None:
                created.append(approval.plan.rollout)
            else:
                notes.append(note)
        reply = SubmissionReply(
            status="accepted",
            submission=digest,
            reasons=tuple(notes[:REASONS_MAX]),
            releases=tuple(f"{each.model}@{each.version}" for each in accepted.releases),
            rollouts=tuple(created),
            documents=tuple(
                f"{change.role} {place}" for change in accepted.fleet for place in change.changed
            ),
        )
        submissions.put(tx, sender, reply, now)
        audit.append(
            tx,
            at=now,
            actor=sender,
            action="submission.accept",
            subject=digest,
            reason=submission.reason,
            details={
                "roles": dict(accepted.versions),
                "releases": list(reply.releases),
                "rollouts": list(reply.rollouts),
                "withdrawn": [f"{each.model}@{each.version}" for each in accepted.withdrawn],
            },
        )
        self._reconciler.reconcile(tx, now)
        return reply

    def _record_refusal(
        self, reply: SubmissionReply, sender: str, now: datetime, *, counted_as: str
    ) -> None:
        more = self._refusals.details(counted_as, time.monotonic())
        if more is None:
            return
        with self._store.transaction() as tx:
            audit.append(
                tx,
                at=now,
                actor=sender,
                action="submission.refuse",
                subject=reply.submission,
                reason="; ".join(reply.reasons),
                details={"status": reply.status, "code": reply.code, **more},
            )


def _rejected(
    digest: str,
    code: str,
    reasons: tuple[str, ...],
    *,
    missing: tuple[str, ...] = (),
    retry: bool = False,
) -> SubmissionReply:
    return SubmissionReply(
        status="retry" if retry else "rejected",
        submission=digest,
        code=code,
        reasons=reasons[:REASONS_MAX],
        missing_artifacts=missing,
    )


def _reply_topic(message: Incoming, fleet: str, pipeline: str) -> str | None:
    """The response topic, if it is a reply topic of the very pipeline that asks: whatever else a
    sender names, we have the right to publish there and it may not."""
    if message.response_topic is None:
        return None
    try:
        topic = parse(message.response_topic)
    except MailboatError:
        return None
    own = topic.channel is Channel.REPLY and (topic["fleet"], topic["pipeline"]) == (
        fleet,
        pipeline,
    )
    return message.response_topic if own else None

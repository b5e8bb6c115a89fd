"""Taking a submission: judged, recorded and acted on in one transaction, and answered.

Sending the same bytes again changes nothing and gets the same answer.
"""

import hashlib
from dataclasses import replace
from datetime import datetime

import structlog

from mailboat_controller.artifacts import Artifacts
from mailboat_controller.mqtt.incoming import Incoming
from mailboat_controller.reconcile import Reconciler
from mailboat_controller.rollout.decide import Rollout
from mailboat_controller.rollout.state import FINAL, Phase, Trigger, move
from mailboat_controller.store import (
    audit,
    outbox,
    outcomes,
    releases,
    rollouts,
    submissions,
    trust_roles,
)
from mailboat_controller.store.engine import Store
from mailboat_controller.store.transaction import Transaction
from mailboat_controller.trust.intake import Accepted, Approval, Held, Rejected, judge_submission
from mailboat_schemas.codec import decode
from mailboat_schemas.documents.release import document_digest
from mailboat_schemas.errors import Conflict, MailboatError, OperatorNeeded, ReleaseRejected
from mailboat_schemas.plan import Plan
from mailboat_schemas.submission import Submission, SubmissionReply, submission_bytes
from mailboat_schemas.topics import TOPICS, Channel, parse

REASONS_MAX = 50

_log = structlog.get_logger(__name__)


class Admission:
    """Takes submissions for one fleet."""

    def __init__(
        self, store: Store, reconciler: Reconciler, artifacts: Artifacts, fleet: str
    ) -> None:
        self._store = store
        self._reconciler = reconciler
        self._artifacts = artifacts
        self._fleet = fleet

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
            self._record_refusal(reply, sender, now)
        _log.info(
            "submission", sender=sender, status=reply.status, code=reply.code, reasons=reply.reasons
        )
        return reply

    def submit_message(self, message: Incoming, now: datetime) -> SubmissionReply:
        """The same for a message on a submit topic, whose pipeline is the sender; the answer is
        queued. A crash before that brings the message again, and the same answer."""
        pipeline = parse(message.topic)["pipeline"]
        reply = self.submit(message.payload, f"ci:{pipeline}", now)
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
        )
        judged = judge_submission(
            submission, held, lambda file: self._artifacts.has(file.sha256, file.length), now
        )
        if isinstance(judged, Rejected):
            return _rejected(
                digest,
                judged.code,
                judged.reasons,
                missing=judged.missing_artifacts,
                retry=judged.retry,
            )
        return self._accept(tx, judged, digest, sender, now)

    def _accept(
        self, tx: Transaction, accepted: Accepted, digest: str, sender: str, now: datetime
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
        created, notes = [], []
        for approval in accepted.approvals:
            note = _take_approval(tx, approval, sender, now)
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
        )
        submissions.put(tx, sender, reply, now)
        audit.append(
            tx,
            at=now,
            actor=sender,
            action="submission.accept",
            subject=digest,
            details={
                "roles": dict(accepted.versions),
                "releases": list(reply.releases),
                "rollouts": list(reply.rollouts),
                "withdrawn": [f"{each.model}@{each.version}" for each in accepted.withdrawn],
            },
        )
        self._reconciler.reconcile(tx, now)
        return reply

    def _record_refusal(self, reply: SubmissionReply, sender: str, now: datetime) -> None:
        with self._store.transaction() as tx:
            audit.append(
                tx,
                at=now,
                actor=sender,
                action="submission.refuse",
                subject=reply.submission,
                reason="; ".join(reply.reasons),
                details={"status": reply.status, "code": reply.code},
            )


def _take_approval(tx: Transaction, approval: Approval, sender: str, now: datetime) -> str | None:
    """Create the rollout of an approval, or give its plan to the one that has its name.

    Returns:
        A note for the approver when no rollout was created.

    Raises:
        Conflict: the name belongs to a rollout of another release.
    """
    known = rollouts.find(tx, approval.plan.rollout)
    if known is None:
        rollouts.create(tx, _planned(tx, approval), now)
        return None
    rollout = known.rollout
    if (rollout.model, rollout.digest) != (approval.model, approval.digest):
        raise Conflict(
            f"The rollout name {rollout.name} belongs to {rollout.model} {rollout.version}.",
            next_step="approve under another rollout name.",
        )
    if rollout.phase in FINAL or rollout.phase is Phase.COMPLETED:
        # A class that the new plan adds would get a completed release at once, by no wave.
        return (
            f"rollout {rollout.name} is {rollout.phase} and keeps its plan; approve under a new "
            "rollout name to run it again"
        )
    changed = _with_plan(rollout, approval.plan)
    rollouts.save(tx, replace(known, rollout=changed), now)
    note = f"rollout {rollout.name} goes on with the new plan"
    if changed.phase is Phase.HALTED:
        note = f"rollout {rollout.name} was halted: {changed.because}"
    audit.append(
        tx,
        at=now,
        actor=sender,
        action="rollout.plan",
        subject=rollout.name,
        reason=note,
        details={"from": rollout.phase.value, "to": changed.phase.value},
    )
    return note


def _planned(tx: Transaction, approval: Approval) -> Rollout:
    offered = rollouts.highest_retry_epoch(tx, approval.model)
    failed_in = outcomes.highest_failed_epoch(tx, approval.digest, offered=offered)
    return Rollout(
        name=approval.plan.rollout,
        model=approval.model,
        version=approval.version,
        digest=approval.digest,
        plan=approval.plan,
        phase=Phase.PLANNED,
        because="approved",
        # A release that failed is approved again: devices where it failed may try it once more.
        retry_epoch=0 if failed_in is None else failed_in + 1,
    )


def _with_plan(rollout: Rollout, plan: Plan) -> Rollout:
    """The rollout on its new plan; halted when an open wave would now be for other devices.

    Devices read the ring of a wave from the plan and its width from the offer, which was counted
    out for the old ring: many more than the wave names could find themselves in.
    """
    opened = rollout.plan.waves[: rollout.waves_open]
    same = all(old.ring == new.ring for old, new in zip(opened, plan.waves, strict=False))
    if same:
        return replace(rollout, plan=plan)
    return replace(
        rollout,
        plan=plan,
        phase=move(rollout.name, rollout.phase, Trigger.HALT),
        because="the approver changed the ring of a wave that is open",
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

"""What became of each release: who signed it, who approved, rejected or withdrew it, and why.

What counts is what the newest roles list. The audit log says who did it; a rejection stands there
alone, because nothing has to be signed for a release not to run.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Self

import structlog

from mailboat_controller.releases.retirement import REINSTATE, RETIRE
from mailboat_controller.store import audit, releases, trust_roles
from mailboat_controller.store.audit import AuditRow
from mailboat_controller.store.releases import ReleaseRow
from mailboat_controller.store.transaction import Transaction
from mailboat_controller.trust.held_trust import HeldTrust
from mailboat_controller.trust.intake import Accepted
from mailboat_controller.trust.signers import SignedBy, signers_of
from mailboat_schemas.documents.release import document_digest
from mailboat_schemas.errors import Conflict, SignatureInvalid
from mailboat_schemas.names import approval_path, release_path
from mailboat_schemas.plan import Plan
from mailboat_schemas.tracing import trace_id
from mailboat_schemas.trust import approval_role, release_role

ACCEPT = "release.accept"
APPROVE = "release.approve"
REJECT = "release.reject"
WITHDRAW = "release.withdraw"
ACTIONS = (ACCEPT, APPROVE, REJECT, WITHDRAW, RETIRE, REINSTATE)
_DECISIONS = frozenset({APPROVE, REJECT, WITHDRAW})
_RETIREMENTS = frozenset({RETIRE, REINSTATE})

_log = structlog.get_logger(__name__)


class ReleaseStanding(StrEnum):
    RELEASED = "released"  # nobody has decided yet
    APPROVED = "approved"
    REJECTED = "rejected"  # an approver has said no; another approval overrules it
    WITHDRAWN = "withdrawn"  # was approved once
    RETIRED = "retired"  # its files are kept no more
    UNLISTED = "unlisted"  # the release role lists it no more: it is not installed anew


@dataclass(frozen=True, slots=True, kw_only=True)
class Deed:
    """One entry of a release's history."""

    action: str
    at: datetime
    actor: str
    reason: str
    signed_by: tuple[SignedBy, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    standing: ReleaseStanding
    signed_by: tuple[SignedBy, ...]
    approved_by: tuple[SignedBy, ...]  # of the approval that holds
    plan: Plan | None
    history: tuple[Deed, ...]  # oldest first

    @property
    def last(self) -> Deed | None:
        """What brought it to its standing."""
        wanted = {
            ReleaseStanding.RELEASED: ACCEPT,
            ReleaseStanding.UNLISTED: ACCEPT,
            ReleaseStanding.APPROVED: APPROVE,
            ReleaseStanding.REJECTED: REJECT,
            ReleaseStanding.WITHDRAWN: WITHDRAW,
            ReleaseStanding.RETIRED: RETIRE,
        }[self.standing]
        return _last(self.history, wanted)


def subject_of(model: str, version: str) -> str:
    """A release's name in the audit log."""
    return f"{model}@{version}"


def record(tx: Transaction, accepted: Accepted, reason: str, sender: str, now: datetime) -> None:
    """Who signed what of each release, for those who look at it later: see"""
    targets = trust_roles.newest(tx)["targets"]

    def append(action: str, model: str, version: str, role: str, digest: str | None) -> None:
        content = accepted.roles[role]
        signed = [
            {"keyid": each.keyid, "name": each.name} for each in signers_of(targets, role, content)
        ]
        audit.append(
            tx,
            at=now,
            actor=sender,
            action=action,
            subject=subject_of(model, version),
            reason=reason,
            details={"role": role, "version": accepted.versions[role], "signed_by": signed},
        )
        name = subject_of(model, version)
        trace = None if digest is None else trace_id(digest)
        _log.info(action, release=name, actor=sender, trace_id=trace)

    for document in accepted.releases:
        role = release_role(document.model)
        digest = document_digest(document.canonical_bytes())
        append(ACCEPT, document.model, document.version, role, digest)
    for approval in accepted.approvals:
        role = approval_role(approval.model)
        append(APPROVE, approval.model, approval.version, role, approval.digest)
    for withdrawal in accepted.withdrawn:
        role = approval_role(withdrawal.model)
        held = releases.by_version(tx, withdrawal.model, withdrawal.version)
        name = (withdrawal.model, withdrawal.version)
        append(WITHDRAW, *name, role, None if held is None else held.digest)


def standings(
    tx: Transaction, trust: HeldTrust, rows: Iterable[ReleaseRow]
) -> Mapping[str, Standing]:
    """By digest of the release document."""
    found = tuple(rows)
    by_subject: dict[str, list[Deed]] = {subject_of(row.model, row.version): [] for row in found}
    for entry in audit.about(tx, by_subject, ACTIONS):
        by_subject[entry.subject].append(_deed(entry))
    listed = {model: _Listed.of(trust, model) for model in {row.model for row in found}}
    return {
        row.digest: _standing(
            listed[row.model], row, tuple(by_subject[subject_of(row.model, row.version)])
        )
        for row in found
    }


def reject(
    tx: Transaction, trust: HeldTrust, row: ReleaseRow, *, actor: str, reason: str, now: datetime
) -> None:
    """Record an approver's no. Nothing has to be signed: what is not approved does not run.

    Raises:
        Conflict: it is approved; only a withdrawal takes that back.
    """
    if trust.approved(row.model, row.version, row.digest):
        raise Conflict(
            f"{row.model} {row.version} is approved.",
            next_step=f"take that back with `mailboat release withdraw {row.model} {row.version}`.",
        )
    audit.append(
        tx,
        at=now,
        actor=actor,
        action=REJECT,
        subject=subject_of(row.model, row.version),
        reason=reason,
        details={"digest": row.digest},
    )


@dataclass(frozen=True, slots=True)
class _Listed:
    """What the two newest roles of a model list, each read once however many releases it has."""

    released: Mapping[str, str]  # path to sha256
    approved: Mapping[str, str]
    customs: Mapping[str, object]  # of the approvals

    @classmethod
    def of(cls, trust: HeldTrust, model: str) -> Self:
        releases = trust.view.delegated(release_role(model))
        approvals = trust.view.delegated(approval_role(model))
        released = {} if releases is None else releases.targets
        approved = {} if approvals is None else approvals.targets
        return cls(
            {path: target.hashes.get("sha256", "") for path, target in released.items()},
            {path: target.hashes.get("sha256", "") for path, target in approved.items()},
            {path: target.custom for path, target in approved.items()},
        )

    def plan(self, row: ReleaseRow) -> Plan | None:
        """None when the approver signed no readable plan: nothing may run on it."""
        try:
            return Plan.from_custom(self.customs.get(approval_path(row.model, row.version)))
        except SignatureInvalid:
            return None


def _standing(listed: _Listed, row: ReleaseRow, history: tuple[Deed, ...]) -> Standing:
    word = _word(listed, row, history)
    approved = word is ReleaseStanding.APPROVED
    accepted, approval = _last(history, ACCEPT), _last(history, APPROVE)
    return Standing(
        standing=word,
        signed_by=() if accepted is None else accepted.signed_by,
        approved_by=approval.signed_by if approved and approval is not None else (),
        plan=listed.plan(row) if approved else None,
        history=history,
    )


def _word(listed: _Listed, row: ReleaseRow, history: tuple[Deed, ...]) -> ReleaseStanding:
    retirements = [deed.action for deed in history if deed.action in _RETIREMENTS]
    if retirements and retirements[-1] == RETIRE:
        return ReleaseStanding.RETIRED
    if listed.approved.get(approval_path(row.model, row.version)) == row.digest:
        return ReleaseStanding.APPROVED
    decided = [deed.action for deed in history if deed.action in _DECISIONS]
    if decided:
        # A role may also have come another way than by a submission: approved then, not any more.
        rejected = decided[-1] == REJECT
        return ReleaseStanding.REJECTED if rejected else ReleaseStanding.WITHDRAWN
    if listed.released.get(release_path(row.model, row.version)) != row.digest:
        return ReleaseStanding.UNLISTED
    return ReleaseStanding.RELEASED


def _deed(entry: AuditRow) -> Deed:
    signed = entry.details.get("signed_by", ())
    return Deed(
        action=entry.action,
        at=entry.at,
        actor=entry.actor,
        reason=entry.reason,
        signed_by=tuple(SignedBy(keyid=each["keyid"], name=each["name"]) for each in signed),
    )


def _last(history: tuple[Deed, ...], action: str) -> Deed | None:
    return next((deed for deed in reversed(history) if deed.action == action), None)

"""Accepted releases: the documents, who signed and approved them, and an approver's no."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from mailboat_controller import rollout_facts
from mailboat_controller.api import etags
from mailboat_controller.api.context import Context
from mailboat_controller.api.identity import AnyHolder, Approver, Reader
from mailboat_controller.api.limits import Reason
from mailboat_controller.api.pages import Paged
from mailboat_controller.releases import standing as release_standing
from mailboat_controller.releases.standing import Deed, ReleaseStanding, Standing
from mailboat_controller.store import deliveries, releases, rollouts
from mailboat_controller.store.instants import to_ms
from mailboat_controller.store.releases import ReleaseRow
from mailboat_controller.store.transaction import Transaction
from mailboat_controller.trust import held_trust
from mailboat_controller.trust.signers import SignedBy
from mailboat_schemas.errors import NotFound
from mailboat_schemas.names import ModelName, Version
from mailboat_schemas.plan import Plan

router = APIRouter(prefix="/v1/releases", tags=["releases"])


class KeySignature(BaseModel):
    """A key whose signature holds, and what people call it."""

    keyid: str
    name: str


class ReleaseSummary(BaseModel):
    """``standing`` is released, approved, rejected, withdrawn or unlisted; ``since``, ``by`` and
    ``reason`` say what brought it there."""

    model: str
    version: str
    digest: str
    accepted_at: datetime
    security_version: int
    hardware_classes: list[str]
    description: str
    standing: ReleaseStanding
    since: datetime | None
    by: str
    reason: str
    signed_by: list[KeySignature]
    approved_by: list[KeySignature]
    plan: str | None  # the name of its rollout


class ReleaseDeed(BaseModel):
    action: str
    at: datetime
    actor: str
    reason: str
    signed_by: list[KeySignature]


class ReleaseStandingAnswer(ReleaseSummary):
    """The same with the whole plan, the rollouts and everything that was decided about it."""

    approved_plan: Plan | None
    rollouts: list[Mapping[str, Any]]
    history: list[ReleaseDeed]
    deliveries: list[Mapping[str, Any]]  # how it came to devices, by class and outcome


class Rejection(BaseModel):
    """A no without a reason helps nobody later."""

    reason: Reason


@router.get("")
def list_releases(
    _reader: Reader, paging: Paged, context: Context, model: ModelName | None = None
) -> list[ReleaseSummary]:
    """In the order they were accepted."""
    with context.store.read() as tx:
        every = releases.every(tx, model)
        rows = paging.cut(every, lambda row: (to_ms(row.accepted_at), row.digest))
        found = release_standing.standings(tx, held_trust.read(tx), rows) if rows else {}
    return [ReleaseSummary(**_summary(row, found[row.digest])) for row in rows]


@router.get("/{model}/{version}", response_class=Response, responses=etags.described(etags.JSON))
def get_release(
    model: ModelName, version: Version, request: Request, _holder: AnyHolder, context: Context
) -> Response:
    """The signed document itself, byte for byte; its sha256 is the ETag."""
    with context.store.read() as tx:
        row = _row(tx, model, version)
    return etags.answer(request, row.document, row.digest, media_type="application/json")


@router.get("/{model}/{version}/standing")
def get_standing(
    model: ModelName, version: Version, _reader: Reader, context: Context
) -> ReleaseStandingAnswer:
    """Who signed, approved, rejected or withdrew it, on which plan, and its rollouts."""
    with context.store.read() as tx:
        return _standing(tx, _row(tx, model, version))


@router.post("/{model}/{version}/reject")
def reject_release(
    model: ModelName,
    version: Version,
    rejection: Rejection,
    approver: Approver,
    context: Context,
) -> ReleaseStandingAnswer:
    """Record an approver's no; a later approval asks again. 409 when it is approved already."""
    with context.store.transaction() as tx:
        row = _row(tx, model, version)
        trust = held_trust.read(tx)
        release_standing.reject(
            tx, trust, row, actor=str(approver), reason=rejection.reason, now=context.now()
        )
        return _standing(tx, row)


def _row(tx: Transaction, model: str, version: str) -> ReleaseRow:
    row = releases.by_version(tx, model, version)
    if row is None:
        raise NotFound(
            f"There is no release {model} {version}.",
            next_step="`mailboat release list` shows those there are.",
        )
    return row


def _standing(tx: Transaction, row: ReleaseRow) -> ReleaseStandingAnswer:
    standing = release_standing.standings(tx, held_trust.read(tx), [row])[row.digest]
    return ReleaseStandingAnswer(
        **_summary(row, standing),
        approved_plan=standing.plan,
        rollouts=[
            rollout_facts.summary(each)
            for each in rollouts.every(tx)
            if each.rollout.digest == row.digest
        ],
        history=[_deed(each) for each in standing.history],
        deliveries=[each.to_json() for each in deliveries.of_release(tx, row.digest)],
    )


def _summary(row: ReleaseRow, standing: Standing) -> dict[str, Any]:
    document, last = row.parsed(), standing.last
    return {
        "model": row.model,
        "version": row.version,
        "digest": row.digest,
        "accepted_at": row.accepted_at,
        "security_version": document.security_version,
        "hardware_classes": sorted(
            name for variant in document.variants for name in variant.hardware_classes
        ),
        "description": document.description,
        "standing": standing.standing,
        "since": None if last is None else last.at,
        "by": "" if last is None else last.actor,
        "reason": "" if last is None else last.reason,
        "signed_by": _keys(standing.signed_by),
        "approved_by": _keys(standing.approved_by),
        "plan": None if standing.plan is None else standing.plan.rollout,
    }


def _deed(deed: Deed) -> ReleaseDeed:
    return ReleaseDeed(
        action=deed.action,
        at=deed.at,
        actor=deed.actor,
        reason=deed.reason,
        signed_by=_keys(deed.signed_by),
    )


def _keys(signers: tuple[SignedBy, ...]) -> list[KeySignature]:
    return [KeySignature(keyid=each.keyid, name=each.name) for each in signers]

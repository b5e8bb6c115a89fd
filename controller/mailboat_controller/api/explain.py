"""Why a device runs what it runs: the ordered checks of the one rule, with evidence and its age."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel

from mailboat_controller.api.context import Context
from mailboat_controller.api.identity import Reader
from mailboat_controller.api.overrides import Override, shown
from mailboat_controller.explaining.checks import ExplainedCheck
from mailboat_controller.explaining.explain import (
    Evidence,
    ExplainedModel,
    ExplainedRelease,
    explain_device,
)
from mailboat_controller.presence import Presence, Reach, standing
from mailboat_controller.sites.reach import reach_by_site
from mailboat_controller.store import overrides
from mailboat_schemas.names import DeviceId, ModelName, Version

router = APIRouter(prefix="/v1/devices", tags=["devices"])


class Check(BaseModel):
    """``passed`` null: unknown, or left open by an earlier no; ``evidence_at`` null: as of now."""

    name: str
    passed: bool | None
    first_no: bool
    because: str
    code: str
    source: str
    evidence_at: datetime | None
    evidence_age_seconds: float


class Release(BaseModel):
    """``role`` is pinned, offered, current or asked; ``eligible`` null: not all is known."""

    role: str
    version: str
    digest: str
    eligible: bool | None
    emergency: str  # why an approver signed it as one; empty: it is none
    checks: list[Check]


class Model(BaseModel):
    """``next`` is what the device does of itself: stays, takes, fetches (ahead of
    its window), installs, leaves or unknown; ``stale``: how it is further behind than allowed."""

    model: str
    serving: str | None
    next: str
    next_version: str | None
    because: str
    stale: list[str]
    releases: list[Release]


class StandingOverride(Override):
    confirmed: bool  # by the device's newest report


class Explanation(BaseModel):
    """``manifest_answered`` is the manifest that the report answers; the newest is
    ``manifest_counter``."""

    device: str
    hardware_class: str
    site: str
    revoked: bool
    presence: Presence
    presence_since: datetime | None
    reported_at: datetime | None
    report_age_seconds: float | None
    manifest_counter: int
    manifest_answered: int
    overrides: list[StandingOverride]
    labels: dict[str, str]
    operator_labels: dict[str, str]
    models: list[Model]


@router.get("/{device}/explain")
def explain(
    device: DeviceId,
    _reader: Reader,
    context: Context,
    model: Annotated[ModelName | None, Query(description="this model alone")] = None,
    release: Annotated[Version | None, Query(description="a version to ask about besides")] = None,
) -> Explanation:
    """Every release that concerns the device, check by check, and what it does next."""
    now = context.now()
    with context.store.read() as tx:
        found = explain_device(Evidence(tx, now), device, model=model, version=release)
        known = found.known
        links = reach_by_site(tx, {known.row.site}, now)
        notes = overrides.labels_of(tx, [device]).get(device, {})
    row, at = known.row, known.reported_at
    stands = standing(row, context.reach(), links.get(row.site, Reach()))
    return Explanation(
        device=row.device,
        hardware_class=row.hardware_class,
        site=row.site,
        revoked=row.revoked,
        presence=stands.presence,
        presence_since=stands.since,
        reported_at=at,
        report_age_seconds=None if at is None else max(0.0, (now - at).total_seconds()),
        manifest_counter=found.counter,
        manifest_answered=0 if known.report is None else known.report.manifest_counter,
        overrides=[
            StandingOverride(**override.model_dump(), confirmed=known.has_confirmed(each))
            for each, override in zip(known.overrides, shown(known.overrides, now), strict=True)
        ],
        labels=dict(known.facts.labels),
        operator_labels=notes,
        models=[_model(each, now) for each in found.models],
    )


def _model(explained: ExplainedModel, now: datetime) -> Model:
    after = explained.prediction.release
    return Model(
        model=explained.model,
        serving=None if explained.serving is None else explained.serving.version,
        next=explained.prediction.move.value,
        next_version=None if after is None else after.version,
        because=explained.prediction.because,
        stale=list(explained.stale),
        releases=[_release(each, now) for each in explained.releases],
    )


def _release(release: ExplainedRelease, now: datetime) -> Release:
    return Release(
        role=release.role,
        version=release.ref.version,
        digest=release.ref.digest,
        eligible=release.explained.eligible,
        emergency=release.emergency,
        checks=[_check(each, now) for each in release.explained.checks],
    )


def _check(check: ExplainedCheck, now: datetime) -> Check:
    age = 0.0 if check.at is None else max(0.0, (now - check.at).total_seconds())
    return Check(
        name=check.name,
        passed=check.passed,
        first_no=check.first_no,
        because=check.because,
        code=check.code,
        source=check.source.value,
        evidence_at=check.at,
        evidence_age_seconds=age,
    )

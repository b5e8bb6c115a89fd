"""`plan`: what a rollout would do to the fleet as it stands, before anybody approves it.

Waves are opened as the controller opens them, devices are judged as they judge themselves, as if
the plan had been approved. Nothing is written.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from mailboat_controller.explaining.class_forecast import (
    ClassForecast,
    Reason,
    WaveForecast,
)
from mailboat_controller.explaining.explain import Evidence
from mailboat_controller.releases.build import plan_of
from mailboat_controller.store import devices, releases, rollouts
from mailboat_controller.store.releases import ReleaseRow
from mailboat_controller.store.transaction import Transaction
from mailboat_schemas.documents.rollout import Rollout
from mailboat_schemas.eligibility import Candidate
from mailboat_schemas.errors import Conflict, NotFound
from mailboat_schemas.plan import Plan
from mailboat_schemas.trust import Standing


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    rollout: str
    model: str
    version: str
    digest: str
    waves: tuple[WaveForecast, ...]
    cannot: Mapping[str, tuple[Reason, ...]]  # by class, the most frequent first
    devices: Mapping[str, int]  # by class, without those that are revoked
    ends_at: datetime | None
    warnings: tuple[str, ...]
    # By device: the wave it is in, whether it may run the release, whether that is not known.
    places: Mapping[str, int] = field(default_factory=dict)
    able: frozenset[str] = frozenset()
    unknown: frozenset[str] = frozenset()
    waiting: frozenset[str] = frozenset()  # able, but for a maintenance window or their cadence


def forecast(evidence: Evidence, document: Rollout, devices_per_class: int | None) -> Forecast:
    """
    Args:
        devices_per_class: as the approver will say it; None: the smallest class as it is now.

    Raises:
        NotFound: no such release. Conflict: the rollout's name is another release's.
        ConfigurationInvalid: no plan can be made of the document.
    """
    tx, wanted = evidence.tx, document.spec.release
    release = releases.by_version(tx, wanted.model, wanted.version)
    if release is None:
        raise NotFound(
            f"There is no release {wanted.model} {wanted.version}.",
            next_step="submit it first: `mailboat release submit`.",
        )
    named = [name for v in release.parsed().variants for name in v.hardware_classes]
    asked = document.spec.hardware_classes
    covered = sorted(name for name in named if not asked or name in asked)
    counts = {each.hardware_class: each for each in devices.count_by_class(tx)}
    sizes = [counts[name].enrolled - counts[name].revoked for name in covered if name in counts]
    plan = plan_of(document, devices_per_class or min(filter(None, sizes), default=1))
    candidate = _candidate(evidence, release, plan)
    classes = [ClassForecast(evidence, name, plan, candidate).forecast() for name in covered]
    waves = _timed(plan, [wave for each in classes for wave in each.waves], evidence.now)
    last = [wave for wave in waves if wave.number == len(plan.waves)]
    ends = [w.opens_at + w.duration for w in last if w.opens_at and w.duration is not None]
    return Forecast(
        rollout=plan.rollout,
        model=release.model,
        version=release.version,
        digest=release.digest,
        waves=waves,
        cannot={each.name: each.cannot for each in classes},
        devices={each.name: len(each.seen) for each in classes},
        ends_at=max(ends) if last and len(ends) == len(last) else None,
        warnings=tuple(_warnings(evidence, plan, candidate, asked, named)),
        places={device: n for each in classes for device, n in each.places.items()},
        able=frozenset(device for each in classes for device in each.able),
        unknown=frozenset(device for each in classes for device in each.unknown),
        waiting=frozenset(device for each in classes for device in each.waiting),
    )


def _candidate(evidence: Evidence, release: ReleaseRow, plan: Plan) -> Candidate:
    """As if the plan had been approved."""
    standing = evidence.standing(release.model, release.version)
    return Candidate(
        model=release.model,
        version=release.version,
        digest=release.digest,
        standing=Standing(
            model=release.model,
            version=release.version,
            released_digest=None if standing is None else standing.released_digest,
            approved_digest=release.digest,
            plan=plan,
        ),
        document=release.parsed(),
        offer=None,
        retry_epoch=_retry_epoch(evidence.tx, release, plan),
    )


def _retry_epoch(tx: Transaction, release: ReleaseRow, plan: Plan) -> int:
    """What the rollout would begin with: a release that had one already is tried anew."""
    known = rollouts.find(tx, plan.rollout)
    if known is None:
        highest = rollouts.highest_retry_epoch(tx, release.model)
        return highest + 1 if rollouts.any_of(tx, release.digest) else highest
    if known.rollout.digest != release.digest:
        raise Conflict(
            f"The rollout name {plan.rollout} belongs to {known.rollout.model} "
            f"{known.rollout.version}.",
            next_step="choose another name in metadata.name.",
        )
    return known.rollout.retry_epoch


def _timed(plan: Plan, waves: Sequence[WaveForecast], now: datetime) -> tuple[WaveForecast, ...]:
    """With the instants at which waves open: the slowest class decides for all."""
    found: list[WaveForecast] = []
    opens: datetime | None = now
    for number, approved in enumerate(plan.waves, start=1):
        mine = [wave for wave in waves if wave.number == number]
        if opens is not None and approved.earliest:
            opens = max(opens, datetime.fromtimestamp(approved.earliest, UTC))
        found += [replace(wave, opens_at=opens) for wave in mine]
        durations = [wave.duration for wave in mine]
        known = [each for each in durations if each is not None]
        if opens is not None:
            whole = len(known) == len(durations)
            opens = opens + max(known, default=timedelta()) if whole else None
    return tuple(found)


def _warnings(
    evidence: Evidence,
    plan: Plan,
    candidate: Candidate,
    asked: Sequence[str],
    named: Sequence[str],
) -> Iterator[str]:
    if candidate.standing.released_digest != candidate.digest:
        yield "the release role does not list this release; no device would install it"
    for name in sorted(set(asked) - set(named)):
        yield f"the release has no variant for class {name}"
    if plan.is_emergency:
        yield (
            f"{plan.emergency}: devices wait for no maintenance window, cadence, metered link or "
            "start jitter"
        )
    if plan.expires and evidence.now.timestamp() >= plan.expires:
        yield "the plan has expired; no device would install it"
    for row in rollouts.every(evidence.tx, candidate.model):
        if row.rollout.phase.value in ("running", "paused") and row.rollout.name != plan.rollout:
            yield f"rollout {row.rollout.name} of the same model is {row.rollout.phase.value}"

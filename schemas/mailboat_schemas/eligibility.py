"""The one rule: may this release run on this device now?

A pure function of (device facts, candidate, now) to a verdict with an ordered list of checks, each
with its evidence. The agent decides with it; the controller's ``plan`` and ``explain`` and the
simulator answer with it, so the answer cannot differ from what the device does.
"""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import lru_cache
from itertools import takewhile

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion
from packaging.version import Version as PackagingVersion

from mailboat_schemas import cohort
from mailboat_schemas.desired import Offer, OfferWave
from mailboat_schemas.device_orders import Hold, Pin
from mailboat_schemas.documents.release import Variant
from mailboat_schemas.eligibility_facts import Candidate, Check, DeviceFacts, Eligibility
from mailboat_schemas.overlays import goes_with
from mailboat_schemas.plan import INSTANT_MAX, Plan, PlanWave
from mailboat_schemas.switch_timing import WINDOW, in_cadence, in_window
from mailboat_schemas.trust import Standing

__all__ = [
    "DISK_MARGIN_BYTES",
    "Candidate",
    "Check",
    "DeviceFacts",
    "Eligibility",
    "evaluate",
    "may_fetch_ahead",
    "pins_that_stand",
]

DISK_MARGIN_BYTES = 4 << 20  # what staging needs beside the files themselves
_RANGES_REMEMBERED = 256  # pairs of a runtime's version and a range that a release asks for


def pins_that_stand(
    pins: Iterable[Pin], standing_of: Callable[[str, str], Standing | None]
) -> tuple[Pin, ...]:
    """Without those whose release is approved no more: nobody is bound to what may not run.

    Args:
        standing_of: by model and version; None where nothing is known.
    """
    found = []
    for pin in pins:
        standing = standing_of(pin.model, pin.version)
        if standing is not None and standing.may_serve(pin.digest):
            found.append(pin)
    return tuple(found)


def evaluate(facts: DeviceFacts, candidate: Candidate, now: datetime) -> Eligibility:
    """Every check in order, with evidence; eligible only if all of them pass."""
    variant = (
        None if candidate.document is None else candidate.document.variant_for(facts.hardware_class)
    )
    return Eligibility(
        (
            _enrolled(facts),
            _fresh(facts),
            _not_held(facts, candidate, now),
            _as_pinned(facts, candidate, now),
            _approved(candidate),
            _not_failed_here(facts, candidate),
            _within_plan(candidate, facts.hardware_class, now),
            _in_cohort(facts, candidate, now),
            _in_window(facts, candidate, now),
            _in_cadence(facts, candidate, now),
            _variant(facts, candidate, variant),
            _runtime(facts, variant),
            _memory(facts, variant),
            _disk(facts, variant),
            _compatible(facts, candidate),
            _no_downgrade(facts, candidate),
        )
    )


def _enrolled(facts: DeviceFacts) -> Check:
    enrolled = facts.enrolment_number > 0
    because = f"enrolment number {facts.enrolment_number}" if enrolled else "not enrolled"
    return Check("enrolled", enrolled, because)


def _fresh(facts: DeviceFacts) -> Check:
    if not facts.clock_trusted:
        return Check("trust_fresh", False, "the device's clock cannot be right")
    if not facts.trust_fresh:
        return Check("trust_fresh", False, "trust metadata has expired; nothing new until renewed")
    return Check("trust_fresh", True, "trust metadata is in date")


def _not_held(facts: DeviceFacts, candidate: Candidate, now: datetime) -> Check:
    hold = facts.hold_of(candidate.model, candidate.digest, now)
    if hold is not None:
        return Check("not_held", False, f"held {_ordered(hold)}")
    if facts.rules.hold:
        return Check("not_held", False, f"held by policy: {facts.rules.hold}")
    return Check("not_held", True, "nobody holds this device")


def _as_pinned(facts: DeviceFacts, candidate: Candidate, now: datetime) -> Check:
    pin = facts.pin_of(candidate.model, now)
    if pin is None:
        return Check("as_pinned", True, "nobody pinned this device")
    return Check(
        "as_pinned", pin.digest == candidate.digest, f"pinned to {pin.version} {_ordered(pin)}"
    )


def _ordered(override: Hold | Pin) -> str:
    until = datetime.fromtimestamp(min(override.expires, INSTANT_MAX), UTC)
    return f"until {until:%Y-%m-%d %H:%M} UTC by {override.by}: {override.reason}"


def _approved(candidate: Candidate) -> Check:
    standing, digest = candidate.standing, candidate.digest
    if standing.released_digest is None:
        return Check("approved", False, "the release role does not list it", "E-NOT-RELEASED")
    if standing.approved_digest is None:
        return Check("approved", False, "not approved, or withdrawn", "E-NOT-APPROVED")
    if not standing.may_install(digest):
        because = "released, approved and offered digests differ"
        return Check("approved", False, because, "E-APPROVED-OTHER")
    return Check("approved", True, "listed with the same digest by the release and approval roles")


def _not_failed_here(facts: DeviceFacts, candidate: Candidate) -> Check:
    failed_in = facts.failed.get(candidate.digest)
    if failed_in is not None and candidate.retry_epoch <= failed_in:
        return Check("not_failed_here", False, f"failed on this device in retry epoch {failed_in}")
    return Check("not_failed_here", True, "has not failed on this device in this retry epoch")


def _within_plan(candidate: Candidate, hardware_class: str, now: datetime) -> Check:
    plan = candidate.standing.plan
    if plan is None:
        return Check("within_plan", False, "no approved plan", "E-NOT-APPROVED")
    if not plan.covers(hardware_class):
        because = f"the plan does not cover class {hardware_class}"
        return Check("within_plan", False, because, "E-PLAN-CLASS")
    if plan.expires and now.timestamp() >= plan.expires:
        # Of what is current too: else a controller could finish an expired plan by calling it so.
        return Check("within_plan", False, "the approved plan has expired", "E-PLAN-EXPIRED")
    if candidate.offer is not None:
        excess = _plan_excess(plan, candidate.offer, now)
        if excess is not None:
            code, because = excess
            return Check("within_plan", False, because, code)
    elif not _begun(plan, now):
        # Who says "current" too early skips the waves.
        return Check("within_plan", False, "no wave of the plan may begin yet", "E-PLAN-EARLY")
    return Check("within_plan", True, f"within plan {plan.rollout}")


def _begun(plan: Plan, now: datetime) -> tuple[PlanWave, ...]:
    """The waves that may be open by now; none may be that stands behind one that may not."""
    return tuple(takewhile(lambda wave: now.timestamp() >= wave.earliest, plan.waves))


def _plan_excess(plan: Plan, offer: Offer, now: datetime) -> tuple[str, str] | None:
    """Code and reason of what in an offer goes beyond the approved plan, or None.

    How fast a controller goes from wave to wave a device cannot judge: only that it leaves none
    out, opens none before its hour and none wider than approved.
    """
    if len(offer.waves) > len(plan.waves):
        counts = f"{len(offer.waves)} waves are offered, {len(plan.waves)} approved"
        return "E-PLAN-WAVES", counts
    for number, (wave, approved) in enumerate(zip(offer.waves, plan.waves, strict=False), start=1):
        if now.timestamp() < approved.earliest:
            return "E-PLAN-EARLY", f"wave {number} is approved from a later time on"
        if wave.upto > cohort.upto_of_ppm(approved.cap_ppm):
            return "E-PLAN-WIDENED", f"wave {number} is opened wider than approved"
        if not set(wave.pilots) <= set(approved.pilots):
            return "E-PLAN-PILOTS", f"wave {number} names pilots that were not approved"
        if wave.roster == 0 and number < len(offer.waves):
            return "E-PLAN-SKIPPED", f"wave {number} was left out, wave {number + 1} is open"
    return None


def _in_cohort(facts: DeviceFacts, candidate: Candidate, now: datetime) -> Check:
    plan = candidate.standing.plan
    if plan is None:
        return Check("in_cohort", None, "no approved plan")
    place = cohort.position(candidate.digest, facts.device)
    if candidate.offer is None:
        admitted = any(_plan_admits(wave, facts, place) for wave in _begun(plan, now))
        because = "the plan's last wave is open" if admitted else "no wave of the plan lets it in"
        return Check("in_cohort", admitted, because)
    if candidate.offer.paused:
        return Check("in_cohort", False, "the rollout is paused")
    for index, (wave, approved) in enumerate(
        zip(candidate.offer.waves, plan.waves, strict=False), start=1
    ):
        if facts.device in wave.pilots:
            return Check("in_cohort", True, f"pilot of wave {index}")
        if approved.matches(facts.labels) and _wave_admits(wave, facts, place):
            return Check("in_cohort", True, f"wave {index}: position {place} <= {wave.upto}")
    return Check("in_cohort", False, f"position {place} is beyond the open waves")


def _wave_admits(wave: OfferWave, facts: DeviceFacts, place: str) -> bool:
    if facts.device in wave.absent:
        return False
    return place <= wave.upto and facts.enrolment_number <= wave.roster


def _plan_admits(wave: PlanWave, facts: DeviceFacts, place: str) -> bool:
    if facts.device in wave.pilots:
        return True
    return wave.matches(facts.labels) and place <= cohort.upto_of_ppm(wave.cap_ppm)


def _in_window(facts: DeviceFacts, candidate: Candidate, now: datetime) -> Check:
    plan, switched_at = candidate.standing.plan, facts.switched_at.get(candidate.model)
    trusted = facts.clock_trusted
    return Check("window", *in_window(facts.rules, plan, switched_at, now, clock_trusted=trusted))


def _in_cadence(facts: DeviceFacts, candidate: Candidate, now: datetime) -> Check:
    plan, switched_at = candidate.standing.plan, facts.switched_at.get(candidate.model)
    return Check("cadence", *in_cadence(facts.rules, plan, switched_at, now))


def may_fetch_ahead(facts: DeviceFacts, found: Eligibility) -> bool:
    """Whether nothing but a closed window is in the way, and policy lets files come before."""
    no = {check.name for check in found.checks if check.passed is not True}
    return no == {WINDOW} and facts.rules.fetches_ahead


def _variant(facts: DeviceFacts, candidate: Candidate, variant: Variant | None) -> Check:
    if candidate.document is None:
        return Check("class_matches", False, "its release document is not in the bundle")
    if variant is None:
        return Check("class_matches", False, f"it has no variant for class {facts.hardware_class}")
    return Check("class_matches", True, f"has a variant for class {facts.hardware_class}")


def _runtime(facts: DeviceFacts, variant: Variant | None) -> Check:
    if variant is None:
        return Check("runtime", None, "no variant")
    wanted = variant.runtime
    try:
        installed, fits = _runtime_fits(facts.runtime_version, wanted.version)
    except InvalidVersion:
        return Check("runtime", False, f"unknown {wanted.name} version {facts.runtime_version!r}")
    if not fits:
        return Check("runtime", False, f"{wanted.name} {installed} is not {wanted.version}")
    if facts.providers.isdisjoint(wanted.providers):
        return Check("runtime", False, f"none of {', '.join(wanted.providers)} is available")
    return Check("runtime", True, f"{wanted.name} {installed}")


@lru_cache(maxsize=_RANGES_REMEMBERED)
def _runtime_fits(installed: str, wanted: str) -> tuple[PackagingVersion, bool]:
    """Of a fleet most devices ask the same. Raises InvalidVersion."""
    version = PackagingVersion(installed)
    return version, SpecifierSet(wanted).contains(version, prereleases=True)


def _memory(facts: DeviceFacts, variant: Variant | None) -> Check:
    if variant is None:
        return Check("memory", None, "no variant")
    own, of_class = facts.memory_budget_bytes, facts.class_budgets.memory_bytes
    whose = "the budget" if of_class is None or own <= of_class else "the budget of the class"
    allowed = own if of_class is None else min(own, of_class)
    because = f"needs {variant.peak_memory} bytes, {whose} is {allowed}"
    return Check("memory", variant.peak_memory <= allowed, because)


def _disk(facts: DeviceFacts, variant: Variant | None) -> Check:
    if variant is None:
        return Check("disk", None, "no variant")
    held = facts.held_files
    missing = [n for digest, n in variant.artifacts.items() if digest not in held]
    largest, allowed = max(missing, default=0), facts.class_budgets.model_bytes_max
    if allowed is not None and largest > allowed:
        because = f"a file has {largest} bytes, the class allows {allowed}"
        return Check("disk", False, because)
    needed = sum(missing) + (DISK_MARGIN_BYTES if missing else 0)
    fits = needed <= facts.disk_free_bytes
    return Check("disk", fits, f"needs {needed} bytes, {facts.disk_free_bytes} are free")


def _compatible(facts: DeviceFacts, candidate: Candidate) -> Check:
    document = candidate.document
    if document is None:
        return Check("compatible", None, "no release document")
    release = (candidate.model, candidate.version, document.compatibility)
    policy = (facts.policy_version, facts.policy_ranges)
    return Check("compatible", *goes_with(facts.config, *release, *policy))


def _no_downgrade(facts: DeviceFacts, candidate: Candidate) -> Check:
    if candidate.document is None:
        return Check("no_downgrade", None, "no release document")
    offered = candidate.document.security_version
    reached = facts.security_versions.get(candidate.model, 0)
    because = f"security version {offered}, this device has reached {reached}"
    if offered < reached:
        return Check("no_downgrade", False, because, "E-DOWNGRADE")
    return Check("no_downgrade", True, because)

"""The ordered checks of one release on one device, each with what it rests on, and how old that is.

What a device has not told is not known, and said to be so; free space is told in steps, so that
within a step the answer is not known either.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from mailboat_controller.explaining.device_facts import KnownDevice
from mailboat_schemas.eligibility import Candidate, Check, Eligibility, evaluate
from mailboat_schemas.reports import DISK_STEP_BYTES
from mailboat_schemas.switch_timing import WINDOW


class Source(StrEnum):
    """Where the evidence of a check is from."""

    REPORT = "the device's report"
    ORDERS = "orders for this device"
    TRUST = "signed metadata"
    MANIFEST = "the newest manifest"
    RELEASE = "the release document"


SOURCES = {
    "enrolled": Source.REPORT,
    "trust_fresh": Source.REPORT,
    "not_held": Source.ORDERS,
    "as_pinned": Source.ORDERS,
    "approved": Source.TRUST,
    "not_failed_here": Source.REPORT,
    "within_plan": Source.TRUST,
    "in_cohort": Source.MANIFEST,
    "window": Source.REPORT,
    "cadence": Source.REPORT,
    "class_matches": Source.RELEASE,
    "runtime": Source.REPORT,
    "memory": Source.REPORT,
    "disk": Source.REPORT,
    "compatible": Source.TRUST,
    "no_downgrade": Source.REPORT,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedCheck:
    """``passed`` None: not known, or left open by an earlier no."""

    name: str
    passed: bool | None
    because: str
    code: str
    source: Source
    at: datetime | None  # of the evidence, by the controller's clock; None: as of now
    first_no: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """One release for one device. ``eligible`` None: nothing says no, but not all is known.

    ``fetched_ahead``: nothing but a closed window is in the way, and its files, which the device
    lacks, may come before; None: perhaps so, not all is known.
    """

    eligible: bool | None
    checks: tuple[ExplainedCheck, ...]
    fetched_ahead: bool | None = False

    @property
    def first_no(self) -> ExplainedCheck | None:
        return next((check for check in self.checks if check.first_no), None)


def explain_release(known: KnownDevice, candidate: Candidate, now: datetime) -> Explained:
    """What the device's own decision says, with what it rests on here."""
    checks = [_known(known, check) for check in _evaluated(known, candidate, now).checks]
    refused = next((i for i, check in enumerate(checks) if check.passed is False), None)
    explained = tuple(
        ExplainedCheck(
            name=check.name,
            passed=check.passed,
            because=check.because,
            code=check.code,
            source=SOURCES[check.name],
            at=known.reported_at if SOURCES[check.name] is Source.REPORT else None,
            first_no=number == refused,
        )
        for number, check in enumerate(checks)
    )
    if refused is not None:
        ahead = _ahead(known, candidate, explained)
        return Explained(eligible=False, checks=explained, fetched_ahead=ahead)
    everything = all(check.passed for check in explained)
    return Explained(eligible=True if everything else None, checks=explained)


def _ahead(
    known: KnownDevice, candidate: Candidate, checks: tuple[ExplainedCheck, ...]
) -> bool | None:
    facts, document = known.facts, candidate.document
    variant = None if document is None else document.variant_for(facts.hardware_class)
    if variant is None or variant.needed <= facts.held_files or not facts.rules.fetches_ahead:
        return False
    if any(check.passed is False and check.name != WINDOW for check in checks):
        return False
    return None if any(check.passed is None for check in checks) else True


def _evaluated(known: KnownDevice, candidate: Candidate, now: datetime) -> Eligibility:
    found = evaluate(known.facts, candidate, now)
    if all(check.passed is not False or check.name != "disk" for check in found.checks):
        return found
    most = replace(known.facts, disk_free_bytes=known.facts.disk_free_bytes + DISK_STEP_BYTES - 1)
    roomier = evaluate(most, candidate, now)
    return Eligibility(
        tuple(
            low
            if low.passed == high.passed
            else replace(low, passed=None, because=f"{low.because}, told in steps of 16 MiB")
            for low, high in zip(found.checks, roomier.checks, strict=True)
        )
    )


def _known(known: KnownDevice, check: Check) -> Check:
    if known.report is not None or SOURCES[check.name] is not Source.REPORT:
        return check
    return replace(check, passed=None, because="the device has not reported yet", code="")

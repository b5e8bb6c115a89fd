"""A device as eligibility sees it, out of the registry and its newest report."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial

from mailboat_controller.store.devices import DeviceRow
from mailboat_controller.store.overrides import HOLD, OverrideRow
from mailboat_schemas.class_budgets import NO_BUDGETS, ClassBudgets
from mailboat_schemas.desired import ReleaseRef
from mailboat_schemas.device_orders import Pin
from mailboat_schemas.documents.release import ReleaseDocument
from mailboat_schemas.eligibility import DeviceFacts, pins_that_stand
from mailboat_schemas.policy_rules import PolicyRule, Rules, rules_for
from mailboat_schemas.reports import ReportedModel, ReportedState
from mailboat_schemas.signed_policy import NO_POLICY, SignedPolicy
from mailboat_schemas.site_orders import goes_back, holds_of, pins_of
from mailboat_schemas.trust import Standing

TRUST_STALE, CLOCK_UNTRUSTED = "trust_stale", "clock_untrusted"

StandingOf = Callable[[str, str], Standing | None]
DocumentOf = Callable[[str], ReleaseDocument | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownDevice:
    """``reported_at`` is by the controller's clock; None: it has never reported."""

    row: DeviceRow
    facts: DeviceFacts
    report: ReportedState | None
    reported_at: datetime | None
    overrides: tuple[OverrideRow, ...] = ()

    def model(self, model: str) -> ReportedModel | None:
        models = () if self.report is None else self.report.models
        return next((each for each in models if each.model == model), None)

    def holds(self, digest: str) -> bool:
        """Whether it has, or had, this release, so that its document is there."""
        models = () if self.report is None else self.report.models
        return any(
            digest in (each.serving_digest, each.target_digest, each.previous_digest, *each.whole)
            or digest == each.spare_digest
            for each in models
        )

    def has_confirmed(self, override: OverrideRow) -> bool:
        """Whether its newest report says that it goes by this override."""
        notes = () if self.report is None else self.report.notes
        if override.kind == HOLD:
            return (f"held:{override.model}" if override.model else "held") in notes
        return f"pinned:{override.model}@{override.version}" in notes


def known_device(
    row: DeviceRow,
    overrides: Iterable[OverrideRow],
    standing_of: StandingOf,
    document_of: DocumentOf,
    now: datetime,
    rules: tuple[PolicyRule, ...] = (),
    policy: SignedPolicy = NO_POLICY,
    budgets: ClassBudgets = NO_BUDGETS,
) -> KnownDevice:
    """
    Args:
        rules: that the class document gives.
        policy: what was signed for its class and site.
        budgets: that the class document gives.
    """
    stand = tuple(each for each in overrides if each.expires_at > now)
    report = None if row.report is None else ReportedState.model_validate(row.report)
    facts = replace(
        _facts(row, report, stand, standing_of, document_of),
        rules=replace(_rules(row, report, policy.before(rules)), lacking=policy.problem),
        policy_version=policy.version,
        policy_ranges=policy.ranges,
        class_budgets=budgets,
        switched_at=_switched_at(report),
        site_holds=holds_of(None if report is None else report.site_order),
    )
    stays = partial(facts.centre_holds, now=now)
    return KnownDevice(
        row=row,
        facts=replace(facts, site_pins=_site_pins(report, standing_of, document_of, stays)),
        report=report,
        reported_at=_reported_at(row, report),
        overrides=stand,
    )


def _facts(
    row: DeviceRow,
    report: ReportedState | None,
    overrides: tuple[OverrideRow, ...],
    standing_of: StandingOf,
    document_of: DocumentOf,
) -> DeviceFacts:
    pins = [pin for each in overrides if (pin := each.pin) is not None]
    holds = tuple(each.hold for each in overrides if each.kind == HOLD)
    standing_pins = pins_that_stand(pins, standing_of)
    if report is None:
        return DeviceFacts(
            device=row.device,
            hardware_class=row.hardware_class,
            enrolment_number=row.enrolment_number,
            labels=row.labels,
            runtime_version="",
            providers=frozenset(),
            memory_budget_bytes=0,
            disk_free_bytes=0,
            holds=holds,
            pins=standing_pins,
        )
    told = report.facts
    return DeviceFacts(
        device=row.device,
        hardware_class=row.hardware_class,
        enrolment_number=told.enrolment_number,
        labels=told.labels,
        runtime_version=told.runtime_version,
        providers=frozenset(told.providers),
        memory_budget_bytes=told.memory_budget_bytes,
        disk_free_bytes=told.disk_free_bytes,
        held_files=_held_files(row.hardware_class, report, document_of),
        failed=report.failed,
        security_versions={each.model: each.security_version for each in report.models},
        trust_fresh=TRUST_STALE not in report.notes,
        clock_trusted=CLOCK_UNTRUSTED not in report.notes,
        holds=holds,
        pins=standing_pins,
    )


def _rules(row: DeviceRow, report: ReportedState | None, rules: tuple[PolicyRule, ...]) -> Rules:
    return rules_for(
        rules,
        device=row.device,
        hardware_class=row.hardware_class,
        site=row.site,
        labels=row.labels if report is None else report.facts.labels,
    )


def _site_pins(
    report: ReportedState | None,
    standing_of: StandingOf,
    document_of: DocumentOf,
    stays: Callable[[str], bool],
) -> tuple[Pin, ...]:
    """As the device's own rule says, of what it reports to run and to be able to go back to.

    Args:
        stays: by model, whether the centre holds it as it is.
    """
    models = {} if report is None else {each.model: each for each in report.models}

    def may_serve(model: str, version: str, digest: str) -> bool:
        standing = standing_of(model, version)
        return standing is not None and standing.may_serve(digest)

    def goes_to(model: str, version: str) -> str | None:
        told, standing = models.get(model), standing_of(model, version)
        if told is None or standing is None or told.serving_version is None:
            return None
        if not goes_back(version, told.serving_version):
            return None
        runs = version == told.serving_version
        before = None if runs or stays(model) else way_back(told, partial(may_serve, model))
        digest = told.serving_digest
        if not runs:
            digest = None if before is None or before.version != version else before.digest
        if digest is None:
            return None
        if not standing.may_serve(digest):
            return None
        document = document_of(digest)
        fits = document is not None and document.security_version >= told.security_version
        return digest if runs or fits else None

    return pins_of(None if report is None else report.site_order, goes_to)


def way_back(told: ReportedModel, may_serve: Callable[[str, str], bool]) -> ReleaseRef | None:
    """Where a rollback of what serves would go: to the newest that ran before, may serve and is
    whole; if it says of none that it is whole, to the newest that may serve.

    ``may_serve`` is asked for a version and a digest.
    """
    before = (
        (told.previous_version, told.previous_digest),
        (told.spare_version, told.spare_digest),
    )
    found = [
        ReleaseRef(version=version, digest=digest)
        for version, digest in before
        if version is not None and digest is not None and may_serve(version, digest)
    ]
    whole = [each for each in found if each.digest in told.whole]
    return next(iter(whole or found), None)


def _switched_at(report: ReportedState | None) -> dict[str, int]:
    models = () if report is None else report.models
    return {each.model: each.switched_at for each in models if each.serving_digest is not None}


def _held_files(
    hardware_class: str, report: ReportedState, document_of: DocumentOf
) -> frozenset[str]:
    """Of the releases that it says it has whole, or serves. It may hold parts of others, which
    only spares downloads."""
    found: set[str] = set()
    named = {digest for each in report.models for digest in (*each.whole, each.serving_digest)}
    for digest in named - {None}:
        document = None if digest is None else document_of(digest)
        variant = None if document is None else document.variant_for(hardware_class)
        if variant is not None:
            found |= variant.needed
    return frozenset(found)


def _reported_at(row: DeviceRow, report: ReportedState | None) -> datetime | None:
    """When the device said it, by our clock; not after we last heard of it."""
    if report is None:
        return None
    said = datetime.fromtimestamp(max(0, report.observed_at) / 1000, UTC)
    said -= timedelta(milliseconds=row.clock_offset_ms or 0)
    return said if row.last_seen_at is None else min(said, row.last_seen_at)

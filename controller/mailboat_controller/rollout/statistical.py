"""The statistical gate of a rollout: from its waves, devices and plan to the questions asked."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from itertools import chain

from mailboat_controller.rollout import halting, promoting
from mailboat_controller.rollout.evidence import Evidence, Exposed, exposed_of, is_exposed, tally
from mailboat_controller.rollout.halting import Halt, Part
from mailboat_controller.rollout.members import Member, Outcome, admits
from mailboat_controller.rollout.promoting import Judgement
from mailboat_schemas.desired import OfferWave
from mailboat_schemas.gate_terms import StatisticalGate
from mailboat_schemas.plan import Plan

Opened = Mapping[str, tuple[OfferWave, ...]]
Members = Mapping[str, tuple[Member, ...]]


def terms_in_force(plan: Plan, waves_open: int) -> StatisticalGate | None:
    """Of the newest open wave; None while that, or no wave, has a statistical gate."""
    return plan.waves[min(waves_open, len(plan.waves)) - 1].gate if waves_open else None


def bad_news(
    terms: StatisticalGate,
    plan: Plan,
    digest: str,
    opened: Opened,
    members: Members,
    ok_elsewhere: int,
    opened_at: datetime | None,
    now: datetime,
) -> Halt | None:
    """Whether the evidence of all waves, or of a part of them, is against the release.

    Args:
        ok_elsewhere: good verdicts of devices that are not among ``members``, which are then those
            with bad news alone.
        opened_at: when the newest wave opened: of a control group those count who were heard from
            since.
    """
    overdue_since = now - timedelta(seconds=terms.verdict_seconds)
    exposed = _exposed(plan, digest, opened, members)
    whole = tally(exposed, overdue_since)
    if ok_elsewhere:
        whole = Evidence(
            ok=whole.ok + ok_elsewhere,
            failed=whole.failed,
            silent=whole.silent,
            overdue=whole.overdue,
        )
        return halting.by_evidence(terms, whole, ())
    usual_ppm = 0
    if whole.overdue and terms.control and opened_at is not None:
        control = _control(plan, digest, opened, members)
        gone = promoting.silent_control(terms, control, opened_at, now)
        usual_ppm = promoting.usual_silence_ppm(terms, gone, whole.exposed)
    parts = _parts(terms, plan, tuple(members), exposed, overdue_since)
    return halting.by_evidence(terms, whole, parts, usual_ppm)


def judge_wave(
    terms: StatisticalGate,
    plan: Plan,
    digest: str,
    opened: Opened,
    members: Members,
    opened_at: datetime,
    now: datetime,
) -> Judgement:
    """Whether the newest open wave has passed, over all classes and waves."""
    exposed = _exposed(plan, digest, opened, members)
    unheard = sorted(_unheard(plan, digest, opened, members, exposed))
    control = _control(plan, digest, opened, members) if terms.control else []
    found = promoting.judge(terms, [each.member for each in exposed], control, opened_at, now)
    if found.passed and unheard:
        # Canaries come from every class: what holds for one need not hold for another.
        because = f"no good verdict yet in {', '.join(unheard)}; all in all {found.because}"
        return Judgement(False, because, found.evidence)
    return found


def _exposed(plan: Plan, digest: str, opened: Opened, members: Members) -> list[Exposed]:
    return list(
        chain.from_iterable(
            exposed_of(plan, digest, name, opened.get(name, ()), devices)
            for name, devices in members.items()
        )
    )


def _parts(
    terms: StatisticalGate,
    plan: Plan,
    classes: Sequence[str],
    exposed: Sequence[Exposed],
    overdue_since: datetime,
) -> list[Part]:
    """As many at any time, so that the error they share is shared once: also the empty ones."""
    parts = []
    if len(classes) > 1:
        for name in classes:
            of_class = [each for each in exposed if each.hardware_class == name]
            parts.append(Part(f"class {name}", tally(of_class, overdue_since)))
    counted = [index for index, wave in enumerate(plan.waves) if wave.gate is not None]
    for index in counted[1:]:
        of_wave = [each for each in exposed if each.wave == index]
        parts.append(Part(f"wave {index + 1}", tally(of_wave, overdue_since)))
    if terms.latency_ratio_ppm:
        slow = sum(each.member.slow is True for each in exposed)
        quick = sum(each.member.slow is False for each in exposed)
        parts.append(Part("latency", Evidence(ok=quick, failed=slow)))
    return parts


def _unheard(
    plan: Plan, digest: str, opened: Opened, members: Members, exposed: Sequence[Exposed]
) -> set[str]:
    """Classes with devices that a wave lets in, none of which has a good verdict."""
    good = {each.hardware_class for each in exposed if each.member.outcome is Outcome.OK}
    return {
        name
        for name, devices in members.items()
        if name not in good
        and any(
            not member.revoked and admits(wave, approved, digest, member)
            for wave, approved in zip(opened.get(name, ()), plan.waves, strict=False)
            for member in devices
        )
    }


def _control(plan: Plan, digest: str, opened: Opened, members: Members) -> list[Member]:
    found = []
    for name, devices in members.items():
        pairs = list(zip(opened.get(name, ()), plan.waves, strict=False))
        for member in devices:
            if member.revoked or is_exposed(member):
                continue
            if not any(admits(wave, approved, digest, member) for wave, approved in pairs):
                found.append(member)
    return found

"""A simulated device as a member of a rollout: what its controller has heard of it."""

from mailboat_controller.rollout.evidence import with_redemption
from mailboat_controller.rollout.members import Member, Outcome
from mailboat_controller.simulate.registry import Enrolled, FoldedOutcome


def has_failed(outcome: FoldedOutcome | None) -> bool:
    return outcome is not None and outcome.outcome is Outcome.FAILED


def member_of(entry: Enrolled, told: FoldedOutcome | None, redeemed_at_ms: int | None) -> Member:
    exposed_at = None if told is None else told.exposed_at
    outcome, exposed_at_ms = with_redemption(
        None if told is None else told.outcome,
        None if exposed_at is None else int(exposed_at * 1000),
        redeemed_at_ms,
    )
    return Member(
        device=entry.device,
        enrolment_number=entry.enrolment_number,
        labels=entry.labels,
        seen_at_ms=int(entry.heard_at * 1000) or None,
        outcome=outcome,
        code="" if told is None else told.code,
        because="" if told is None else told.because,
        exposed_at_ms=exposed_at_ms,
        fetched=told is None and redeemed_at_ms is not None,
    )

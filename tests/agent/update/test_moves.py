"""The records that follow from a step, and the events that follow from a record."""

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from mailboat_agent.update import moves
from mailboat_agent.update.events import BECAUSE_CHARS_MAX, implied_events, refusal_event
from mailboat_agent.update.retry import Backoff, left_as, retry_delay_seconds
from mailboat_agent.update.state import Installed, ModelState
from mailboat_agent.update.steps import GoBack, Refusal
from mailboat_agent.update.time_floor import (
    AHEAD_SECONDS_MAX,
    BUILT_AT,
    SKEW_SECONDS_MAX,
    stands_before,
    stands_far_ahead,
    time_floor,
)
from mailboat_schemas.eligibility import Candidate, Check
from mailboat_schemas.events import EventKind
from mailboat_schemas.reports import ModelPhase
from mailboat_schemas.trust import Standing

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
OLDEST, OLD, NEW = (Installed(version=f"{n}.0.0", digest=f"{n}" * 64) for n in (1, 2, 3))
RUNS_OLD = ModelState(
    phase=ModelPhase.COMMITTED, active=OLD, previous=OLDEST, install=4, install_of=OLD
)
FIRST = Installed(version="0.1.0", digest="0" * 64)
BACK = GoBack(to=OLD, kind=EventKind.ROLLED_BACK, code="error_rate", because="too many errors")


def runs_old_for_long() -> ModelState:
    return replace(RUNS_OLD, spare=FIRST)


def candidate(release: Installed = NEW, retry_epoch: int = 2) -> Candidate:
    standing = Standing(
        model="vad", version=release.version, released_digest=None, approved_digest=None, plan=None
    )
    return Candidate(
        model="vad",
        version=release.version,
        digest=release.digest,
        standing=standing,
        document=None,
        offer=None,
        retry_epoch=retry_epoch,
    )


def kinds(state: ModelState) -> list[EventKind]:
    return [event.kind for event in implied_events("vad", state, NOON)]


def test_whoever_stops_the_agent_fails_no_release_but_not_for_ever() -> None:
    soaking = moves.began_soak(
        moves.started_trial(RUNS_OLD, candidate(), tries=3, install=5), tries=3
    )
    for _ in range(moves.STOPS_MAX):
        soaking = moves.told_to_stop(moves.spent_try(soaking))
    assert soaking.tries == 2

    assert moves.told_to_stop(moves.spent_try(soaking)).tries == 1
    again = moves.started_trial(soaking, candidate(), tries=3, install=6)
    assert moves.told_to_stop(moves.spent_try(again)).tries == 3


def test_the_switch_names_the_candidate_and_keeps_all_predecessors() -> None:
    state = moves.started_trial(runs_old_for_long(), candidate(), tries=3, install=5)

    assert (state.phase, state.active) == (ModelPhase.TRIAL, NEW)
    assert state.predecessors == (OLD, OLDEST, FIRST)
    assert (state.tries, state.install, state.retry_epoch) == (3, 5, 2)
    assert state.serving == OLD


def test_a_commit_keeps_the_release_before_and_the_one_before_that() -> None:
    state = moves.started_trial(runs_old_for_long(), candidate(), tries=3, install=5)

    state = moves.committed(moves.began_soak(state, tries=3), "clean", security_version=0, at=NOON)

    assert (state.active, state.predecessors) == (NEW, (OLD, OLDEST))


def test_a_failed_install_costs_no_predecessor() -> None:
    before = runs_old_for_long()
    trial = moves.started_trial(before, candidate(), tries=3, install=5)
    for left in (trial, moves.began_soak(trial, tries=3)):
        state = moves.went_back(left, replace(BACK, kind=EventKind.TRIAL_FAILED))

        assert (state.phase, state.active) == (ModelPhase.COMMITTED, OLD)
        assert state.predecessors == before.predecessors == (OLDEST, FIRST)


def test_after_a_rollback_the_release_before_the_last_is_the_previous_one() -> None:
    state = moves.went_back(runs_old_for_long(), replace(BACK, to=OLDEST))

    assert (state.active, state.previous, state.spare) == (OLDEST, FIRST, None)


def test_past_a_predecessor_that_cannot_serve_only_older_ones_are_left() -> None:
    trial = moves.started_trial(runs_old_for_long(), candidate(), tries=3, install=5)

    state = moves.went_back(trial, replace(BACK, to=OLDEST, kind=EventKind.TRIAL_FAILED))

    assert (state.active, state.predecessors) == (OLDEST, (FIRST,))


def test_what_ran_before_and_is_installed_again_is_not_its_own_way_back() -> None:
    state = moves.started_trial(runs_old_for_long(), candidate(OLDEST), tries=3, install=5)

    assert (state.active, state.predecessors) == (OLDEST, (OLD, FIRST))


def test_a_rollback_remembers_the_release_as_failed_and_a_return_does_not() -> None:
    soaking = moves.began_soak(
        moves.started_trial(RUNS_OLD, candidate(), tries=3, install=5), tries=3
    )

    assert moves.went_back(soaking, BACK).failed == {NEW.digest: 2}
    assert moves.went_back(soaking, replace(BACK, kind=EventKind.RETURNED)).failed == {}


def test_the_whole_install_tells_its_story_in_order_and_the_same_each_time() -> None:
    state = moves.started_trial(RUNS_OLD, candidate(), tries=3, install=5)
    assert kinds(state) == [EventKind.TRIAL_STARTED]
    state = moves.began_soak(state, tries=3)
    assert kinds(state) == [EventKind.TRIAL_STARTED, EventKind.SOAK_STARTED]
    state = moves.committed(state, "clean", security_version=9, at=NOON)
    events = implied_events("vad", state, NOON)

    assert [event.event_id for event in events] == [
        "vad:5:trial_started",
        "vad:5:soak_started",
        "vad:5:committed",
    ]
    assert {event.digest for event in events} == {NEW.digest}
    assert events[-1].serving_version == "3.0.0"
    assert state.security_version == 9


def test_a_rollback_is_told_with_what_serves_now() -> None:
    soaking = moves.began_soak(
        moves.started_trial(RUNS_OLD, candidate(), tries=3, install=5), tries=3
    )

    told = implied_events("vad", moves.went_back(soaking, BACK), NOON)[-1]

    assert (told.kind, told.version, told.serving_version) == (
        EventKind.ROLLED_BACK,
        "3.0.0",
        "2.0.0",
    )
    assert (told.code, told.retry_epoch) == ("error_rate", 2)


def test_what_a_runtime_said_at_length_is_told_in_short() -> None:
    began = moves.started_trial(RUNS_OLD, candidate(), tries=3, install=5)
    step = replace(BACK, kind=EventKind.TRIAL_FAILED, because="x" * (BECAUSE_CHARS_MAX + 1))

    told = implied_events("vad", moves.went_back(began, step), NOON)[-1]

    assert told.because == "x" * BECAUSE_CHARS_MAX


def test_two_returns_after_one_install_have_two_ids() -> None:
    first = moves.went_back(RUNS_OLD, replace(BACK, to=OLDEST, kind=EventKind.RETURNED))
    second = moves.went_back(first, replace(BACK, to=None, kind=EventKind.RETURNED))

    ids = {implied_events("vad", state, NOON)[-1].event_id for state in (first, second)}

    assert len(ids) == 2


def test_the_beginning_of_an_install_is_told_of_its_release_whatever_was_left_since() -> None:
    """Installed and committed, returned to the one before, and that one left too: a journal that
    was lost told the install's beginning of the release that was left last."""
    began = moves.started_trial(RUNS_OLD, candidate(), tries=3, install=5)
    first = implied_events("vad", began, NOON)[0]
    ran = moves.committed(moves.began_soak(began, tries=3), "clean", security_version=9, at=NOON)
    to_old = moves.went_back(ran, replace(BACK, to=OLD, kind=EventKind.RETURNED))
    to_nothing = moves.went_back(to_old, replace(BACK, to=None, kind=EventKind.RETURNED))

    again = [implied_events("vad", state, NOON)[0] for state in (ran, to_old, to_nothing)]

    assert {(each.event_id, each.digest, each.version) for each in again} == {
        (first.event_id, NEW.digest, NEW.version)
    }
    assert [each.serving_version for each in (first, *again)] == ["2.0.0", "2.0.0", "2.0.0", None]
    assert implied_events("vad", to_nothing, NOON)[-1].digest == OLD.digest


def test_one_refusal_has_one_id_however_often_it_is_looked_at() -> None:
    refusal = Refusal(candidate=candidate(), check=Check("memory", False, "needs more"))

    event = refusal_event("vad", refusal, OLD, NOON)

    assert event.event_id == f"vad:{'3' * 16}:2:memory"
    assert (event.code, event.serving_version) == ("memory", "2.0.0")


@pytest.mark.parametrize("attempt", [0, 1, 9, 10_000])
def test_a_retry_waits_at_most_its_bound(attempt: int) -> None:
    rng = random.Random(1)

    delays = [retry_delay_seconds(attempt, rng, seconds_max=300) for _ in range(200)]

    assert min(delays) >= 0
    assert max(delays) <= min(300, 2**attempt)


def test_a_hint_to_wait_longer_is_kept_to_and_a_success_forgets_it() -> None:
    backoff = Backoff(random.Random(1))
    backoff.failed(100.0, hint_seconds=60)

    assert not backoff.allows(159.9)
    assert backoff.allows(161.1)
    backoff.forget()
    assert backoff.allows(0.0)


def test_the_time_floor_never_goes_down_and_ignores_what_is_no_time() -> None:
    issued = ["2026-05-01T00:00:00Z", "nonsense", None, 7]

    floor = time_floor(issued)

    assert floor == int(datetime(2026, 5, 1, tzinfo=UTC).timestamp())
    assert time_floor([], held=floor) == floor
    assert time_floor(["1999-01-01T00:00:00Z"]) == BUILT_AT


def test_a_clock_a_little_behind_the_signer_is_right_enough() -> None:
    floor = int(NOON.timestamp())

    assert not stands_before(NOON - timedelta(seconds=SKEW_SECONDS_MAX), floor)
    assert stands_before(NOON - timedelta(seconds=SKEW_SECONDS_MAX + 1), floor)


def test_a_withdrawn_release_with_no_other_leaves_nothing_to_serve() -> None:
    withdrawn = replace(BACK, to=None, kind=EventKind.RETURNED, code="withdrawn")

    assert kinds(moves.went_back(RUNS_OLD, withdrawn)) == [
        EventKind.TRIAL_STARTED,
        EventKind.RETURNED,
        EventKind.NOTHING_TO_SERVE,
    ]


def test_a_first_trial_that_fails_is_not_told_as_a_loss() -> None:
    first = moves.started_trial(ModelState(), candidate(), tries=3, install=1)
    failed = replace(BACK, to=None, kind=EventKind.TRIAL_FAILED, code="golden_mismatch")

    assert kinds(moves.went_back(first, failed))[-1] is EventKind.TRIAL_FAILED


def test_a_clock_is_far_ahead_of_what_is_known_only_after_more_than_a_year() -> None:
    floor = int(NOON.timestamp())

    assert not stands_far_ahead(NOON + timedelta(seconds=AHEAD_SECONDS_MAX), floor)
    assert stands_far_ahead(NOON + timedelta(seconds=AHEAD_SECONDS_MAX + 1), floor)


@pytest.mark.parametrize(
    ("phase", "attempts", "rejected", "left"),
    [
        (ModelPhase.TRIAL, 1, True, EventKind.TRIAL_FAILED),
        (ModelPhase.TRIAL, 2, False, None),
        (ModelPhase.TRIAL, 3, False, EventKind.TRIAL_FAILED),
        (ModelPhase.SOAK, 3, False, EventKind.ROLLED_BACK),
        (ModelPhase.COMMITTED, 9, False, None),
        (ModelPhase.COMMITTED, 10, False, EventKind.RETURNED),
        (ModelPhase.COMMITTED, 1, True, EventKind.RETURNED),
        (ModelPhase.ABSENT, 99, True, None),
    ],
)
def test_a_release_that_cannot_be_loaded_is_left_as_its_phase_says(
    phase: ModelPhase, attempts: int, rejected: bool, left: EventKind | None
) -> None:
    assert left_as(phase, attempts=attempts, rejected=rejected) is left

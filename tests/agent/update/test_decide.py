"""What happens next for one model, in the situations a device gets into."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailboat_agent.update.decide import decide
from mailboat_agent.update.refuge import should_serve
from mailboat_agent.update.situation import Situation
from mailboat_agent.update.steps import (
    Activate,
    BeginSoak,
    GoBack,
    Keep,
    RunShadow,
    RunTrial,
    Stage,
    StartTrial,
    Suspend,
    WatchSoak,
)
from mailboat_schemas.documents.release import ReleaseDocument
from mailboat_schemas.events import EventKind
from mailboat_schemas.reports import ModelPhase
from situations import (
    FILE,
    NOON,
    RUNS_A,
    A,
    B,
    assigned,
    installed,
    known,
    situation,
    soaking,
    trying,
)
from trust_fleet import document

# --- on the way in -------------------------------------------------------------------------------


def test_a_new_device_without_a_manifest_does_nothing() -> None:
    assert decide(situation(), NOON) == Keep(because="no desired state names this model")


def test_the_current_release_is_staged_when_its_files_are_missing() -> None:
    step = decide(situation(assignment=assigned(current=A), held=(A,)), NOON)

    assert isinstance(step, Stage)
    assert step.candidate.digest == A
    assert step.because == "1.0.0 is current"


def test_a_trial_starts_once_everything_is_on_disk() -> None:
    step = decide(situation(assignment=assigned(current=A)), NOON)

    assert isinstance(step, StartTrial)


def test_an_offer_that_lets_the_device_in_comes_before_current() -> None:
    step = decide(situation(RUNS_A, assigned(current=A, offer=B)), NOON)

    assert isinstance(step, StartTrial)
    assert step.candidate.digest == B
    assert step.because == "2.0.0 is offered to this device"


def test_outside_the_open_waves_the_device_keeps_current_and_says_why() -> None:
    step = decide(situation(RUNS_A, assigned(current=A, offer=B, upto="")), NOON)

    assert isinstance(step, Keep)
    assert "1.0.0 is current; 2.0.0: position" in step.because
    assert [refusal.check.name for refusal in step.refusals] == ["in_cohort"]


def test_a_new_device_outside_the_waves_takes_current() -> None:
    step = decide(situation(assignment=assigned(current=A, offer=B, upto="")), NOON)

    assert isinstance(step, StartTrial)
    assert step.candidate.digest == A


def test_an_unapproved_release_is_refused_and_what_runs_stays() -> None:
    standings = {B: known(B, approved=False)}
    step = decide(situation(RUNS_A, assigned(current=A, offer=B), standings=standings), NOON)

    assert isinstance(step, Keep)
    assert [refusal.check.name for refusal in step.refusals] == ["approved"]


@pytest.mark.parametrize("missing", [{"trust_fresh": False}, {"clock_trusted": False}])
def test_without_fresh_trust_or_a_sane_clock_nothing_new_is_installed(missing: Any) -> None:
    step = decide(situation(RUNS_A, assigned(current=A, offer=B), **missing), NOON)

    assert isinstance(step, Keep)
    assert step.refusals[0].check.name == "trust_fresh"


def test_a_release_that_failed_here_waits_for_a_higher_retry_epoch() -> None:
    state = RUNS_A.with_failed(B, 0)

    assert isinstance(decide(situation(state, assigned(current=A, offer=B)), NOON), Keep)
    again = assigned(current=A, offer=B, retry_epoch=1)
    assert isinstance(decide(situation(state, again), NOON), StartTrial)


def test_a_lower_security_version_is_not_installed() -> None:
    state = replace(RUNS_A, security_version=5)
    standings = {B: known(B, security_version=4)}

    step = decide(situation(state, assigned(current=B), standings=standings), NOON)

    assert isinstance(step, Keep)
    assert step.refusals[0].check.name == "no_downgrade"


# --- in trial ------------------------------------------------------------------------------------


def test_a_trial_with_tries_left_is_run() -> None:
    assert isinstance(decide(situation(trying(B, A), assigned(A, B)), NOON), RunTrial)


def test_a_trial_without_tries_left_is_a_failure() -> None:
    step = decide(situation(trying(B, A, tries=0), assigned(A, B)), NOON)

    assert isinstance(step, GoBack)
    assert (step.kind, step.code) == (EventKind.TRIAL_FAILED, "tries_exhausted")
    assert step.to == installed(A)


def test_a_trial_that_passed_on_its_last_try_counts() -> None:
    passed = situation(trying(B, A, tries=0), assigned(A, B), trial_passed=True)

    assert isinstance(decide(passed, NOON), Activate)


def test_a_candidate_that_is_not_wanted_any_more_is_left_even_after_it_passed() -> None:
    step = decide(situation(trying(B, A), assigned(A), trial_passed=True), NOON)

    assert isinstance(step, GoBack)
    assert (step.kind, step.code, step.to) == (EventKind.RETURNED, "superseded", installed(A))


def test_a_candidate_that_was_withdrawn_meanwhile_is_left() -> None:
    standings = {B: known(B, approved=False)}
    step = decide(
        situation(trying(B, A), assigned(A, B), standings=standings, trial_passed=True), NOON
    )

    assert isinstance(step, GoBack)
    assert (step.code, step.to) == ("withdrawn", installed(A))


def test_a_paused_rollout_does_not_stop_a_trial_that_has_begun() -> None:
    step = decide(situation(trying(B, A), assigned(A, B, paused=True)), NOON)

    assert isinstance(step, RunTrial)


# --- in soak -------------------------------------------------------------------------------------


def test_after_a_restart_the_soak_begins_again() -> None:
    assert isinstance(decide(situation(soaking(B, A), assigned(A, B)), NOON), BeginSoak)


def test_a_soak_that_this_process_began_is_watched() -> None:
    running = situation(soaking(B, A), assigned(A, B), attempt_running=True)

    assert isinstance(decide(running, NOON), WatchSoak)


def test_a_soak_cut_short_by_restarts_once_too_often_is_rolled_back() -> None:
    step = decide(situation(soaking(B, A, tries=0), assigned(A, B)), NOON)

    assert isinstance(step, GoBack)
    assert (step.kind, step.code) == (EventKind.ROLLED_BACK, "tries_exhausted")


def test_a_halted_rollout_ends_the_soak_and_goes_back() -> None:
    step = decide(situation(soaking(B, A), assigned(A), attempt_running=True), NOON)

    assert isinstance(step, GoBack)
    assert (step.kind, step.to) == (EventKind.RETURNED, installed(A))


def test_with_nothing_to_go_back_to_the_soaking_release_serves_on() -> None:
    step = decide(situation(soaking(B), assigned(), attempt_running=True), NOON)

    assert isinstance(step, WatchSoak)


def test_with_nothing_to_go_back_to_the_next_release_is_tried_from_the_soak() -> None:
    step = decide(situation(soaking(B), assigned(current=A), attempt_running=True), NOON)

    assert isinstance(step, StartTrial)
    assert step.candidate.digest == A


# --- committed -----------------------------------------------------------------------------------


@pytest.mark.parametrize("paused", [False, True])
def test_a_device_that_runs_the_offer_keeps_it(paused: bool) -> None:
    state = replace(RUNS_A, active=installed(B), previous=installed(A))

    step = decide(situation(state, assigned(A, B, paused=paused)), NOON)

    assert step == Keep(because="2.0.0 is offered and runs")


def test_when_the_offer_is_gone_the_device_returns_without_a_new_trial() -> None:
    state = replace(RUNS_A, active=installed(B), previous=installed(A))

    step = decide(situation(state, assigned(current=A), trust_fresh=False), NOON)

    assert isinstance(step, GoBack)
    assert (step.kind, step.to) == (EventKind.RETURNED, installed(A))


def test_a_release_that_a_newer_rollout_superseded_stays_until_the_newer_one_arrives() -> None:
    state = replace(RUNS_A, active=installed(B), previous=installed(A))

    step = decide(situation(state, assigned(current=A, kept=[B])), NOON)

    assert step == Keep(because="2.0.0 stays until the next release reaches this device")


def test_a_kept_release_makes_way_for_the_offer_that_lets_the_device_in() -> None:
    state = replace(RUNS_A, active=installed(A))

    step = decide(situation(state, assigned(offer=B, kept=[A])), NOON)

    assert isinstance(step, StartTrial)
    assert step.candidate.digest == B


def test_a_kept_release_that_was_withdrawn_is_left_all_the_same() -> None:
    state = replace(RUNS_A, active=installed(B), previous=installed(A))
    withdrawn = {B: known(B, approved=False)}

    step = decide(situation(state, assigned(current=A, kept=[B]), standings=withdrawn), NOON)

    assert isinstance(step, GoBack)
    assert step.to == installed(A)


def test_a_superseded_soak_goes_on_and_a_superseded_trial_does_not() -> None:
    kept = assigned(current=A, kept=[B])

    assert isinstance(decide(situation(soaking(B, A), kept, attempt_running=True), NOON), WatchSoak)
    assert isinstance(decide(situation(trying(B, A), kept), NOON), GoBack)


def test_when_the_rollout_completed_the_device_has_nothing_to_do() -> None:
    state = replace(RUNS_A, active=installed(B), previous=installed(A))

    assert decide(situation(state, assigned(current=B)), NOON) == Keep(because="2.0.0 is current")


def test_a_withdrawn_release_is_left_for_its_predecessor() -> None:
    state = replace(RUNS_A, active=installed(B), previous=installed(A))
    standings = {B: known(B, approved=False)}

    step = decide(situation(state, assigned(current=B), standings=standings), NOON)

    assert isinstance(step, GoBack)
    assert (step.code, step.to) == ("withdrawn", installed(A))


def test_a_withdrawn_release_is_not_served_even_if_there_is_nothing_else() -> None:
    step = decide(situation(RUNS_A, None, standings={A: known(A, approved=False)}), NOON)

    assert isinstance(step, GoBack)
    assert (step.code, step.to) == ("withdrawn", None)


def test_a_predecessor_that_was_withdrawn_too_is_no_way_back() -> None:
    state = replace(RUNS_A, active=installed(B), previous=installed(A))
    standings = {A: known(A, approved=False), B: known(B, approved=False)}

    step = decide(situation(state, assigned(current=B), standings=standings), NOON)

    assert isinstance(step, GoBack)
    assert step.to is None


def test_absence_from_the_release_role_alone_empties_no_device() -> None:
    standings = {A: known(A, released=False)}

    assert decide(situation(RUNS_A, assigned(current=A), standings=standings), NOON) == Keep(
        because="1.0.0 is current"
    )


def test_a_damaged_release_is_fetched_again() -> None:
    step = decide(situation(RUNS_A, assigned(current=A), held=(A,)), NOON)

    assert isinstance(step, Stage)
    assert "damaged" in step.because


def test_trust_metadata_that_does_not_verify_suspends_serving_and_forgets_nothing() -> None:
    broken = replace(situation(RUNS_A, assigned(current=A)), known=None)

    assert isinstance(decide(broken, NOON), Suspend)


def test_what_serves_during_a_trial_is_judged_by_its_own_approval() -> None:
    standings = {A: known(A, approved=False)}
    wanted = should_serve(situation(trying(B, A), assigned(A, B), standings=standings))

    assert (wanted.release, wanted.allowed) == (installed(A), False)


# --- files that the disk has lost ----------------------------------------------------------------

RUNS_B = replace(RUNS_A, active=installed(B), previous=installed(A))
LOST_B = (A, FILE)  # what is held without the document of B


def test_what_serves_from_memory_is_fetched_again_and_not_left() -> None:
    step = decide(situation(RUNS_B, assigned(current=B), held=LOST_B, in_memory=B), NOON)

    assert isinstance(step, Stage)
    assert step.candidate.digest == B
    assert "it serves from memory" in step.because


def test_after_a_restart_it_is_left_for_the_one_before() -> None:
    step = decide(situation(RUNS_B, assigned(current=B), held=LOST_B), NOON)

    assert isinstance(step, GoBack)
    assert (step.kind, step.code, step.to) == (
        EventKind.RETURNED,
        "storage_damaged",
        installed(A),
    )


@pytest.mark.parametrize("away", [{"trust_fresh": False}, {"clock_trusted": False}])
def test_a_device_that_may_fetch_nothing_serves_on_from_memory(away: dict[str, bool]) -> None:
    lost = situation(RUNS_B, assigned(current=B), held=(FILE,), in_memory=B, **away)

    assert isinstance(decide(lost, NOON), Keep)
    assert isinstance(decide(replace(lost, in_memory=""), NOON), Suspend)


def test_what_serves_is_repaired_before_anything_new_is_tried() -> None:
    """It is where a failed trial leads back to. If nobody has it any more, the way is forward."""
    lost = situation(RUNS_A, assigned(A, B), held=(B, FILE), in_memory=A)

    step = decide(lost, NOON)
    onward = decide(replace(lost, cannot_fetch=A), NOON)

    assert isinstance(step, Stage)
    assert step.candidate.digest == A
    assert isinstance(onward, StartTrial)
    assert onward.candidate.digest == B


def test_a_withdrawal_counts_for_what_serves_from_memory_too() -> None:
    standings = {B: known(B, approved=False)}
    lost = situation(RUNS_B, assigned(current=B), held=LOST_B, in_memory=B, standings=standings)

    step = decide(lost, NOON)

    assert isinstance(step, GoBack)
    assert (step.code, step.to) == ("withdrawn", installed(A))


def test_a_halted_release_is_left_though_its_files_are_damaged() -> None:
    step = decide(situation(RUNS_B, assigned(current=A), held=LOST_B, in_memory=B), NOON)

    assert isinstance(step, GoBack)
    assert (step.code, step.to) == ("superseded", installed(A))


def test_a_soak_goes_on_from_memory() -> None:
    soak = situation(soaking(B, A), assigned(A, B), held=LOST_B, in_memory=B, attempt_running=True)

    assert isinstance(decide(soak, NOON), WatchSoak)


def test_a_trial_that_fails_leads_back_to_what_serves_from_memory() -> None:
    lost = situation(trying(B, A, tries=0), assigned(A, B), held=(B, FILE), in_memory=A)

    step = decide(lost, NOON)

    assert isinstance(step, GoBack)
    assert (step.kind, step.to) == (EventKind.TRIAL_FAILED, installed(A))


def shadowing(previous: str | None = A, *, over: bool = False, **more: Any) -> Situation:
    """B passed its trial, and its document asks for a shadow."""
    variant = document("2.0.0").variants[0].model_dump(mode="json")
    variant["health"]["shadow"] = {"share": 0.5}
    standings = {B: known(B, variants=[variant])} | more.pop("standings", {})
    state = trying(B, previous, tries=0)
    return situation(
        state, assigned(A, B), trial_passed=True, shadow_over=over, standings=standings, **more
    )


def test_a_shadow_comes_between_trial_and_switch() -> None:
    assert isinstance(decide(shadowing(), NOON), RunShadow)
    assert isinstance(decide(shadowing(over=True), NOON), Activate)


def test_there_is_no_shadow_without_a_release_that_may_serve_beside() -> None:
    withdrawn = {A: known(A, approved=False)}

    assert isinstance(decide(shadowing(previous=None), NOON), Activate)
    assert isinstance(decide(shadowing(standings=withdrawn), NOON), Activate)
    assert isinstance(decide(shadowing(held=(B, FILE)), NOON), Activate)


def test_a_candidate_withdrawn_in_its_shadow_is_left() -> None:
    withdrawn = {B: known(B, approved=False)}

    assert isinstance(decide(shadowing(standings=withdrawn), NOON), GoBack)


def test_files_lost_after_a_trial_passed_lead_back_without_a_verdict() -> None:
    step = decide(
        situation(trying(B, A), assigned(A, B), held=LOST_B, in_memory=A, trial_passed=True), NOON
    )

    assert isinstance(step, GoBack)
    assert (step.kind, step.code) == (EventKind.RETURNED, "storage_damaged")


def test_a_damaged_predecessor_is_fetched_again_and_a_removed_one_is_not() -> None:
    lacking = situation(RUNS_B, assigned(current=B), held=(B, FILE))

    step = decide(replace(lacking, set_aside=frozenset({A})), NOON)

    assert isinstance(step, Stage)
    assert step.candidate.digest == A
    assert isinstance(decide(lacking, NOON), Keep)
    given_up = replace(lacking, set_aside=frozenset({A}), cannot_fetch=A)
    assert isinstance(decide(given_up, NOON), Keep)


@given(
    phase=st.sampled_from([ModelPhase.TRIAL, ModelPhase.SOAK, ModelPhase.COMMITTED]),
    tries=st.integers(0, 3),
    current=st.sampled_from([None, A, B]),
    offer=st.sampled_from([None, A, B]),
    fresh=st.booleans(),
    running=st.booleans(),
    passed=st.booleans(),
    a_approved=st.booleans(),
    held=st.sampled_from([(A, B, FILE), (A, B), (B, FILE)]),
)
def test_no_situation_lets_a_withdrawn_release_serve_or_be_installed(
    phase: ModelPhase,
    tries: int,
    current: str | None,
    offer: str | None,
    fresh: bool,
    running: bool,
    passed: bool,
    a_approved: bool,
    held: tuple[str, ...],
) -> None:
    state = replace(trying(B, A, tries), phase=phase)
    standings = {A: known(A, approved=a_approved), B: known(B, approved=False)}
    at = situation(
        state,
        assigned(current, offer),
        held=held,
        trust_fresh=fresh,
        standings=standings,
        attempt_running=running,
        trial_passed=passed,
    )

    step = decide(at, NOON)

    assert isinstance(step, GoBack)
    assert step.to in (None, installed(A))
    if step.to is not None:
        assert a_approved


def test_a_document_of_another_class_is_not_for_this_device() -> None:
    other: ReleaseDocument = document("2.0.0")
    variants = [v.model_dump() | {"hardware_classes": ["other"]} for v in other.variants]
    standings = {B: known(B, variants=variants)}

    step = decide(situation(RUNS_A, assigned(A, B), standings=standings), NOON)

    assert isinstance(step, Keep)
    assert step.refusals[0].check.name == "class_matches"

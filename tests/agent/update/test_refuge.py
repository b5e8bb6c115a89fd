"""Where a device goes when it leaves a release, over every way the others may stand."""

from dataclasses import replace
from datetime import UTC, datetime
from itertools import product
from typing import Any

import pytest

from mailboat_agent.update import moves
from mailboat_agent.update.decide import decide
from mailboat_agent.update.refuge import failure_mode, fall_back_to, refuge, should_serve
from mailboat_agent.update.situation import Known, Situation
from mailboat_agent.update.state import Installed, ModelState
from mailboat_agent.update.steps import GoBack, Keep, Stage
from mailboat_schemas.desired import Assignment, ReleaseRef
from mailboat_schemas.documents.failure_mode import FailureMode
from mailboat_schemas.eligibility import DeviceFacts
from mailboat_schemas.events import EventKind
from mailboat_schemas.plan import Plan, PlanWave
from mailboat_schemas.reports import ModelPhase
from mailboat_schemas.trust import Standing
from trust_fleet import CLASS, document

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
PLAN = Plan(rollout="all", waves=(PlanWave(cap_ppm=1_000_000),))
FILE = "ab" * 32


def version(name: str) -> str:
    return f"{name}.0.0"


def digest(name: str) -> str:
    return {"1": "a1", "2": "b2", "3": "c3", "4": "d4"}[name] * 32


def installed(name: str) -> Installed:
    return Installed(version=version(name), digest=digest(name))


def situation(
    state: ModelState,
    *,
    approved: str = "1234",
    held: str = "1234",
    mode: FailureMode = FailureMode.FAIL_SAFE,
    changes: dict[str, dict[str, Any]] | None = None,
    assignment: Assignment | None = None,
) -> Situation:
    facts = DeviceFacts(
        device="kiosk-1",
        hardware_class=CLASS,
        enrolment_number=7,
        runtime_version="1.20.0",
        providers=frozenset({"CPUExecutionProvider"}),
        memory_budget_bytes=1 << 30,
        disk_free_bytes=1 << 30,
        held_files=frozenset({FILE, *map(digest, held)}),
        failed=state.failed,
        security_versions={"vad": state.security_version},
    )
    known = {
        digest(name): Known(
            standing=Standing(
                model="vad",
                version=version(name),
                released_digest=digest(name),
                approved_digest=digest(name) if name in approved else None,
                plan=PLAN if name in approved else None,
            ),
            document=document(version(name), **(changes or {}).get(name, {})),
        )
        for name in "1234"
    }
    return Situation(
        model="vad",
        assignment=assignment,
        state=state,
        facts=facts,
        known=known,
        failure_mode=mode,
    )


# 3 is being installed over 2, which came after 1; 2 declares 4 as its fallback.
INSTALLING = ModelState(
    phase=ModelPhase.SOAK,
    active=installed("3"),
    previous=installed("2"),
    spare=installed("1"),
    tries=2,
    install=3,
)
FALLBACK = {name: {"fallback": "4.0.0"} for name in "123"}
RUNS = ModelState(
    phase=ModelPhase.COMMITTED, active=installed("3"), previous=installed("2"), install=3
)


@pytest.mark.parametrize(
    ("approved", "held", "goes_to"),
    [
        ("12", "1234", "2.0.0"),
        ("1", "1234", "1.0.0"),
        ("124", "134", "1.0.0"),  # 2 is not whole
        ("4", "1234", "4.0.0"),
        ("4", "123", None),
        ("", "1234", None),
    ],
)
def test_the_newest_that_is_approved_and_whole_comes_first(
    approved: str, held: str, goes_to: str | None
) -> None:
    step = decide(situation(INSTALLING, approved=approved, held=held, changes=FALLBACK), NOON)

    assert isinstance(step, GoBack)
    assert (step.kind, step.code) == (EventKind.RETURNED, "withdrawn")
    assert (step.to.version if step.to else None) == goes_to


def test_no_standing_of_the_others_brings_a_withdrawn_release_back() -> None:
    phases = (ModelPhase.TRIAL, ModelPhase.SOAK, ModelPhase.COMMITTED)
    subsets = [
        "".join(name for name, is_in in zip("1234", bits, strict=True) if is_in)
        for bits in product((False, True), repeat=4)
    ]
    for phase, approved, held, mode in product(phases, subsets, subsets, FailureMode):
        state = replace(INSTALLING, phase=phase)
        at = situation(state, approved=approved, held=held, mode=mode, changes=FALLBACK)
        for to in (fall_back_to(at), refuge(at)):
            assert to is None or to.version[0] in set(approved) & set(held)
        step = decide(at, NOON)
        if isinstance(step, GoBack):
            assert step.to is None or step.to.version[0] in approved
            after = moves.went_back(state, step)
            then = should_serve(replace(at, state=after))
            assert then.release is None or then.allowed


@pytest.mark.parametrize("of_class", [None, *FailureMode])
@pytest.mark.parametrize("of_release", [None, *FailureMode])
def test_the_strictest_failure_mode_counts(
    of_class: FailureMode | None, of_release: FailureMode | None
) -> None:
    changes = {"3": {"fallback": "4.0.0", "failure_mode": of_release}}
    at = situation(RUNS, approved="4", mode=of_class or FailureMode.FAIL_SAFE, changes=changes)

    closed = FailureMode.FAIL_CLOSED in (of_class, of_release)
    assert failure_mode(at) is (FailureMode.FAIL_CLOSED if closed else FailureMode.FAIL_SAFE)
    assert (refuge(at) is None) == closed


def test_in_a_trial_the_word_of_what_serves_counts_not_the_candidates() -> None:
    trial = replace(INSTALLING, phase=ModelPhase.TRIAL)
    changes = {"3": {"failure_mode": "fail_closed"}, "2": {"fallback": "4.0.0"}}

    to = refuge(situation(trial, approved="4", changes=changes))

    assert to == installed("4")


def test_a_release_is_no_fallback_of_itself_nor_one_that_failed_here() -> None:
    itself = {"3": {"fallback": "3.0.0"}}
    assert refuge(situation(RUNS, approved="3", changes=itself)) is None
    failed = RUNS.with_failed(digest("4"), 0)
    assert refuge(situation(failed, approved="4", changes=FALLBACK)) is None


def test_the_fallback_is_fetched_ahead_of_need_and_only_then() -> None:
    current = Assignment(model="vad", current=ReleaseRef(version="3.0.0", digest=digest("3")))

    def step(**more: Any) -> object:
        return decide(situation(RUNS, changes=FALLBACK, assignment=current, **more), NOON)

    ahead = step(held="23")
    assert isinstance(ahead, Stage)
    assert ahead.candidate.version == "4.0.0"
    assert ahead.because == "3.0.0 is current; its fallback 4.0.0 is fetched ahead"
    for enough in (
        step(),
        step(held="23", approved="123"),
        step(held="23", mode=FailureMode.FAIL_CLOSED),
    ):
        assert isinstance(enough, Keep)


def test_what_was_left_behind_is_forgotten_as_a_place_to_go_back_to() -> None:
    step = decide(situation(INSTALLING, approved="1", changes=FALLBACK), NOON)
    assert isinstance(step, GoBack)

    after = moves.went_back(INSTALLING, step)

    assert (after.active, after.previous, after.spare) == (installed("1"), None, None)


def test_a_predecessor_withdrawn_during_a_trial_gives_way_to_the_one_before_it() -> None:
    """On a disk that refuses, the trial may never begin: somebody has to serve meanwhile."""
    trial = ModelState(
        phase=ModelPhase.TRIAL,
        active=installed("3"),
        previous=installed("2"),
        spare=installed("1"),
        tries=3,
    )

    undisturbed = should_serve(situation(trial))
    meanwhile = should_serve(situation(trial, approved="134"))
    nobody = should_serve(situation(trial, approved="34"))

    assert undisturbed.release == installed("2")
    assert meanwhile.release == installed("1")
    assert meanwhile.allowed
    assert not nobody.allowed

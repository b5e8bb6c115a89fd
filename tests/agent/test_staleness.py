"""A model that is further behind than policy allows: told, marked, and stopped after the grace."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from agent_box import AgentBox, Play, device_facts
from mailboat_agent.absence import STALE_WORD
from mailboat_agent.artifacts.release_store import ReleaseStore
from mailboat_agent.facts import Device, Look
from mailboat_agent.staleness_watch import judge
from mailboat_agent.trust.manifest import Counter, Manifest
from mailboat_agent.trust.trust_store import TrustStore
from mailboat_agent.update.stale import recorded
from mailboat_agent.update.state import Installed, ModelState
from mailboat_schemas.events import EventKind
from mailboat_schemas.reports import ModelPhase
from mailboat_schemas.staleness import NOT_STALE, Action
from model_fleet import CLASS, FLEET, MODEL, ModelFleet, golden, picky
from signed_policies import policy_document, sign_policy, window_in
from trust_fleet import TrustFleet

HOUR = timedelta(hours=1)
WARN = Action.WARN


def bound(enforce: str, **more: Any) -> dict[str, Any]:
    return {"staleness": {"minor_versions_behind_max": 0, "enforce": enforce, **more}}


def absence_word(box: AgentBox) -> str | None:
    absence = box.runtime.absences().get(MODEL)
    return None if absence is None else absence.word


def degraded(box: AgentBox) -> list[str]:
    return [each.code for each in box.events() if each.kind is EventKind.DEGRADED]


@pytest.mark.slow
def test_a_stale_model_is_marked_then_stopped_and_the_way_out_waits_for_no_window(
    play: Play, fleet: ModelFleet
) -> None:
    a, b = fleet.model_release("1.0.0"), fleet.model_release("1.1.0", factor=3.0)

    async def story(box: AgentBox) -> None:
        window = {"windows": [window_in(box.now(), 12)]}
        sign_policy(fleet, policy_document(bound("stop", grace_hours=1), window))
        await box.install(fleet.current(a), "1.0.0")
        assert (
            box.runtime.stale_because(MODEL, a.digest) == "1 minor versions behind, 0 are allowed"
        )
        assert box.serving == "1.0.0"
        since = box.state.stale_since
        await box.restart()
        await box.until(lambda: box.committed("1.0.0"))
        assert box.state.stale_since == since

        box.clock_offset = timedelta(minutes=61)
        await box.until(lambda: box.serving is None)
        absence = box.runtime.absences()[MODEL]
        assert (absence.word, absence.closed) == (STALE_WORD, False)
        assert box.state.active == Installed(version="1.0.0", digest=a.digest)
        await box.step()
        assert degraded(box) == ["stale", "stale-stopped"]

        await box.install(fleet.offered(b, a), "1.1.0")
        assert box.state.stale_since == 0
        assert box.told()[-1] == "recovered"

    play(story)


@pytest.fixture(scope="module")
def stale_fleet(tmp_path_factory: pytest.TempPathFactory) -> TrustFleet:
    fleet = TrustFleet(tmp_path_factory.mktemp("stale") / "ceremony")
    fleet.release("1.0.0")
    fleet.release("1.1.0")
    sign_policy(fleet, policy_document(bound("stop", grace_hours=1)))
    return fleet


def heard(fleet: TrustFleet, directory: Path) -> tuple[Device, Manifest]:
    trust = TrustStore(directory, fleet.factory_root)
    manifest = Manifest(
        trust=trust, store=ReleaseStore(directory), fleet=FLEET, hardware_class=CLASS
    )
    manifest.take(fleet.bundle(), [MODEL], Counter(0, ""))
    return device_facts(), manifest


def judged(heard: tuple[Device, Manifest], look: dict[str, Any], state: dict[str, Any]) -> Action:
    """Of a release that has been too far behind for as long as its grace."""
    now = datetime.now(UTC)
    looks = Look(now=now, monotonic=0.0, clock_trusted=True, trust_fresh=True)
    stands = ModelState(
        phase=ModelPhase.COMMITTED,
        active=Installed(version="1.0.0", digest="cd" * 32),
        stale_since=int((now - HOUR).timestamp()),
    )
    return judge(*heard, MODEL, replace(stands, **state), replace(looks, **look)).action


@pytest.mark.parametrize(
    ("look", "state", "action"),
    [
        ({}, {}, Action.STOP),
        ({"clock_trusted": False}, {}, Action.NONE),
        ({"trust_fresh": False}, {}, Action.WARN),
        ({}, {"phase": ModelPhase.SOAK}, Action.WARN),
        ({}, {"stale_since": 0}, Action.WARN),
        ({}, {"stale_since": 1 << 40}, Action.WARN),
        ({}, {"active": None}, Action.NONE),
        ({}, {"active": Installed(version="1.1.0", digest="ab" * 32)}, Action.NONE),
    ],
    ids=[
        "after the grace",
        "the clock cannot be right",
        "what is newer may be withdrawn by now",
        "it is being judged",
        "it has only just been found",
        "the clock was wrong when it was found",
        "nothing serves",
        "it is not behind",
    ],
)
def test_a_device_stops_only_what_it_knows_to_be_too_far_behind(
    stale_fleet: TrustFleet,
    tmp_path: Path,
    look: dict[str, Any],
    state: dict[str, Any],
    action: Action,
) -> None:
    assert judged(heard(stale_fleet, tmp_path), look, state) is action


@pytest.mark.parametrize(
    ("look", "state", "action"),
    [
        ({"trust_fresh": False}, {}, Action.STOP),
        ({"clock_trusted": False}, {}, Action.STOP),
        ({"trust_fresh": False}, {"stale_since": 1 << 40}, Action.STOP),
        ({}, {"stale_since": 1 << 40}, Action.STOP),
        ({}, {"active": Installed(version="1.1.0", digest="cd" * 32)}, Action.NONE),
        ({"trust_fresh": False}, {"active": Installed(version="1.0.0", digest="ef" * 32)}, WARN),
    ],
    ids=[
        "the network is cut until its metadata expires",
        "its clock is set to what cannot be right",
        "both",
        "its clock is set back, so that the grace would begin anew",
        "it knows to be not behind any more",
        "another release was stopped",
    ],
)
def test_what_was_stopped_stays_so_until_the_device_knows_better(
    stale_fleet: TrustFleet,
    tmp_path: Path,
    look: dict[str, Any],
    state: dict[str, Any],
    action: Action,
) -> None:
    state = {"stopped": "cd" * 32} | state

    assert judged(heard(stale_fleet, tmp_path), look, state) is action


A = Installed(version="1.0.0", digest="cd" * 32)


@pytest.mark.parametrize(
    ("state", "remembered"),
    [
        ({"phase": ModelPhase.SOAK, "active": A}, True),
        ({"phase": ModelPhase.TRIAL, "active": A, "previous": A}, True),
        ({"phase": ModelPhase.COMMITTED, "active": A}, False),
        ({"phase": ModelPhase.ABSENT}, False),
        ({"phase": ModelPhase.TRIAL, "active": A}, False),
    ],
    ids=[
        "the way out is in its soak",
        "it is on trial",
        "the way out is committed",
        "nothing is left",
        "what is on trial is a first release",
    ],
)
def test_a_grace_and_a_stop_end_with_what_they_were_of(
    state: dict[str, Any], remembered: bool
) -> None:
    before = ModelState(stale_since=1_700_000_000, stopped="ab" * 32, **state)

    after = recorded(before, NOT_STALE, datetime(2026, 3, 1, tzinfo=UTC))

    assert (after.stale_since, after.stopped) == (
        (before.stale_since, before.stopped) if remembered else (0, "")
    )


@pytest.mark.slow
def test_a_model_that_policy_has_stopped_does_not_serve_again_when_its_metadata_expires(
    play: Play, fleet: ModelFleet
) -> None:
    a = fleet.model_release("1.0.0")
    fleet.model_release("1.1.0", factor=3.0)

    async def story(box: AgentBox) -> None:
        sign_policy(fleet, policy_document(bound("stop", grace_hours=1)))
        await box.install(fleet.current(a), "1.0.0")
        box.clock_offset = timedelta(minutes=61)
        await box.until(lambda: box.serving is None)

        box.clock_offset = timedelta(days=400)
        for _ in range(3):
            await box.step()
        assert not box.reconciler.trust_fresh
        assert box.serving is None
        await box.restart()
        await box.until(lambda: not box.reconciler.trust_fresh)
        assert box.serving is None
        assert box.state.stopped == a.digest

    play(story)


@pytest.mark.slow
def test_a_way_out_that_fails_its_trial_leaves_the_stopped_model_stopped(
    play: Play, fleet: ModelFleet, caplog: pytest.LogCaptureFixture
) -> None:
    a = fleet.model_release("1.0.0")
    bad = fleet.model_release("1.1.0", factor=4.0, samples=golden(5.0))
    sign_policy(fleet, policy_document(bound("stop", grace_hours=0)))

    async def story(box: AgentBox) -> None:
        assert box.take(fleet.current(a))
        await box.until(lambda: "committed 1.0.0" in box.told())
        await box.until(lambda: absence_word(box) == STALE_WORD)
        assert box.take(fleet.offered(bad, a))
        await box.until(lambda: "trial_failed 1.1.0" in box.told())
        for _ in range(5):
            await box.step()

        assert box.told().count("trial_failed 1.1.0") == 1
        assert box.serving is None
        assert box.state.active == Installed(version="1.0.0", digest=a.digest)
        assert absence_word(box) == STALE_WORD
        assert "is not approved any more" not in caplog.text  # it is: nobody should approve it anew

    play(story)


@pytest.mark.slow
def test_a_way_out_that_fails_in_its_soak_never_brings_the_stopped_model_back(
    play: Play, fleet: ModelFleet
) -> None:
    a = fleet.model_release("1.0.0")
    soak = {"seconds": 600, "breach_requests_min": 3}
    bad = fleet.model_release("1.1.0", model=picky(), samples=golden(1.0, 0.0), soak=soak)
    sign_policy(fleet, policy_document(bound("stop", grace_hours=0)))

    async def story(box: AgentBox) -> None:
        assert box.take(fleet.current(a))
        await box.until(lambda: "committed 1.0.0" in box.told())
        await box.until(lambda: absence_word(box) == STALE_WORD)
        assert box.take(fleet.offered(bad, a))
        await box.until(lambda: box.state.phase is ModelPhase.SOAK)
        for _ in range(4):
            box.ask([9, 9, 9, 9])
        served: set[str | None] = set()

        def is_back() -> bool:
            served.add(box.serving)
            return "rolled_back 1.1.0" in box.told()

        await box.until(is_back)
        assert box.serving is None
        for _ in range(5):
            await box.step()
            served.add(box.serving)

        assert served == {"1.1.0", None}
        assert box.state.active == Installed(version="1.0.0", digest=a.digest)
        assert absence_word(box) == STALE_WORD

    play(story)

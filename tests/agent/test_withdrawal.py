"""Withdrawn releases, and what a device does when nothing approved is left: on real workers."""

import asyncio
import http.client
import json
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

from agent_box import AgentBox, Story, played
from attack_siege import served
from mailboat_agent.errand import Kind
from mailboat_agent.serving.gateway import Gateway
from mailboat_agent.serving.runtime import ModelSuspended
from mailboat_schemas.desired import Assignment, ReleaseRef
from mailboat_schemas.documents.failure_mode import FailureMode
from mailboat_schemas.reports import ModelPhase
from model_fleet import MODEL, Certificates, ModelFleet, golden, looping

Play = Callable[[Story], None]
NOTHING = Assignment(model=MODEL)


Tell = Callable[[Path, ModelFleet, Story], None]


@pytest.fixture(scope="module")
def tell(certificates: Certificates) -> Tell:
    """A story of a device in this directory, of this fleet."""

    def run(directory: Path, fleet: ModelFleet, story: Story) -> None:
        with served(certificates, fleet) as server:
            played(story, directory, fleet, server, certificates)

    return run


@pytest.fixture
def play(tmp_path: Path, fleet: ModelFleet, tell: Tell) -> Play:
    return lambda story: tell(tmp_path / "data", fleet, story)


@dataclass(frozen=True)
class Installed:
    """1.0.0 and then 1.1.0 were installed; 1.1.0 serves."""

    fleet: ModelFleet
    older: ReleaseRef
    newer: ReleaseRef
    play: Play


@pytest.fixture(scope="module")
def installed_once(tmp_path_factory: pytest.TempPathFactory, tell: Tell) -> tuple[Path, Installed]:
    directory = tmp_path_factory.mktemp("installed")
    fleet = ModelFleet(directory / "ceremony")
    a, b = fleet.model_release("1.0.0"), fleet.model_release("1.1.0", factor=3.0)

    async def story(box: AgentBox) -> None:
        await box.install(fleet.current(a), "1.0.0")
        await box.install(fleet.current(b), "1.1.0")

    tell(directory / "data", fleet, story)
    return directory / "data", Installed(fleet, a, b, lambda _: None)


@pytest.fixture
def installed(installed_once: tuple[Path, Installed], tmp_path: Path, tell: Tell) -> Installed:
    """A copy of its own for each test, which is started when the story is."""
    data, once = installed_once
    shutil.copytree(data, tmp_path / "data")
    fleet = once.fleet.copied()

    def play(story: Story) -> None:
        async def serving(box: AgentBox) -> None:
            await box.until(lambda: box.committed("1.1.0"))
            await story(box)

        tell(tmp_path / "data", fleet, serving)

    return replace(once, fleet=fleet, play=play)


def ask(gateway: Gateway, method: str, path: str, content: Any = None) -> tuple[int, str, Any]:
    """Status, Retry-After and JSON of one answer."""
    connection = http.client.HTTPConnection(*gateway.address, timeout=60)
    body = None if content is None else json.dumps(content)
    connection.request(method, path, body)
    response = connection.getresponse()
    found = response.status, response.getheader("retry-after", ""), json.loads(response.read())
    connection.close()
    return found


def infer(gateway: Gateway) -> tuple[int, str, Any]:
    x = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [0, 1, 2, 3]}
    return ask(gateway, "POST", f"/v2/models/{MODEL}/infer", {"inputs": [x]})


# --- at once -------------------------------------------------------------------------------------


def test_a_withdrawn_release_answers_nobody_while_its_predecessor_is_loaded(
    installed: Installed,
) -> None:
    fleet = installed.fleet

    async def story(box: AgentBox) -> None:
        with Gateway(box.runtime) as gateway:
            assert infer(gateway)[0] == 200
            fleet.withdraw("1.1.0")
            box.take(fleet.bundle(NOTHING))
            # Not one turn of the loop later: from the moment the manifest was accepted.
            status, retry_after, answer = infer(gateway)
            assert (status, retry_after) == (503, "1")
            assert "not served now" in answer["error"]
            assert ask(gateway, "GET", "/v2/health/ready")[0] == 503
            assert ask(gateway, "GET", f"/v2/models/{MODEL}")[0] == 503
            await box.until(lambda: box.committed("1.0.0"))
            assert infer(gateway)[0] == 200
            assert ask(gateway, "GET", "/v2/health/ready")[0] == 200
        assert box.told()[-1] == "returned 1.1.0"

    installed.play(story)


@pytest.mark.slow
def test_requests_that_wait_for_a_withdrawn_release_are_refused_not_answered(
    play: Play, fleet: ModelFleet
) -> None:
    slow = fleet.model_release("1.0.0", model=looping(150_000), samples=golden(1.0, plus=0.0))

    async def story(box: AgentBox) -> None:
        await box.install(fleet.current(slow), "1.0.0")
        fleet.withdraw("1.0.0")
        withdrawal = fleet.bundle(NOTHING)
        with Gateway(box.runtime, request_seconds_max=30) as gateway:
            statuses: list[int] = []
            callers = [
                threading.Thread(target=lambda: statuses.append(infer(gateway)[0]))
                for _ in range(6)
            ]
            for caller in callers:
                caller.start()
            await asyncio.sleep(0.02)
            box.take(withdrawal)
            for caller in callers:
                await asyncio.to_thread(caller.join, 30)
            assert statuses.count(503) >= 3  # one runs, the first may have been answered

    play(story)


@pytest.mark.slow
def test_a_withdrawal_counts_although_the_desired_state_beside_it_is_refused(
    play: Play, fleet: ModelFleet
) -> None:
    a = fleet.model_release("1.0.0")

    async def story(box: AgentBox) -> None:
        fleet.counter = 5
        await box.install(fleet.current(a), "1.0.0")
        fleet.withdraw("1.0.0")
        fleet.counter = 0  # a stolen broker puts an old wish beside new trust metadata
        assert not box.take(fleet.bundle(NOTHING))
        assert box.serving is None
        assert box.events()[-1].code == "E-ROLLBACK"

    play(story)


def test_a_release_withdrawn_while_it_is_being_loaded_never_serves(installed: Installed) -> None:
    fleet, a, b = installed.fleet, installed.older, installed.newer

    async def story(box: AgentBox) -> None:
        box.take(fleet.current(a))
        loop = box.reconciler.loops[MODEL]
        fleet.withdraw("1.0.0")
        withdrawal = fleet.current(b)
        while loop.work is None or loop.work.kind is not Kind.GO_BACK:
            await box.step()
        await asyncio.sleep(0.01)  # its worker is being started
        box.take(withdrawal)
        await asyncio.wait([loop.work.task])
        assert box.serving == "1.1.0"
        while loop.work is not None:
            await box.step()
            assert box.serving == "1.1.0"
            await asyncio.sleep(0.01)
        assert box.committed("1.1.0")

    installed.play(story)


# --- never a place to go back to -----------------------------------------------------------------


@pytest.mark.slow
def test_a_trial_that_fails_goes_past_a_withdrawn_predecessor_to_the_one_before(
    installed: Installed,
) -> None:
    fleet, b = installed.fleet, installed.newer

    async def story(box: AgentBox) -> None:
        c = fleet.model_release("1.2.0", model=looping(), health={"deadline_seconds": 2})
        box.take(fleet.offered(c, b))
        while box.state.phase is not ModelPhase.TRIAL or not box.reconciler.busy:
            await box.step()
            await asyncio.sleep(0.01)
        fleet.withdraw("1.1.0")
        box.take(fleet.offered(c, None))
        assert box.serving is None
        await box.until(lambda: box.committed("1.0.0"))
        assert "trial_failed 1.2.0" in box.told()

    installed.play(story)


@pytest.mark.slow
def test_a_candidate_withdrawn_during_its_trial_is_dropped_before_the_trial_ends(
    play: Play, fleet: ModelFleet
) -> None:
    a = fleet.model_release("1.0.0")
    b = fleet.model_release("1.1.0", model=looping(), health={"deadline_seconds": 60})

    async def story(box: AgentBox) -> None:
        await box.install(fleet.current(a), "1.0.0")
        box.take(fleet.offered(b, a))
        while box.state.phase is not ModelPhase.TRIAL or not box.reconciler.busy:
            await box.step()
            await asyncio.sleep(0.01)
        began = asyncio.get_running_loop().time()
        fleet.withdraw("1.1.0")
        box.take(fleet.offered(b, a))
        await box.until(lambda: box.committed("1.0.0"))
        assert asyncio.get_running_loop().time() - began < 40
        # Nor does its worker go on until its deadline.
        serving = box.runtime.worker_pid(MODEL)
        await box.until(lambda: [each.pid for each in psutil.Process().children()] == [serving])
        returned = next(event for event in box.events() if event.kind == "returned")
        assert (returned.version, returned.code) == ("1.1.0", "withdrawn")

    play(story)


@pytest.mark.slow
def test_a_download_of_what_was_withdrawn_is_dropped(play: Play, fleet: ModelFleet) -> None:
    a, b = fleet.model_release("1.0.0"), fleet.model_release("1.1.0", factor=3.0)

    async def story(box: AgentBox) -> None:
        await box.install(fleet.current(a), "1.0.0")
        box.take(fleet.offered(b, a))
        loop = box.reconciler.loops[MODEL]
        while loop.work is None or loop.work.kind is not Kind.STAGE:
            await box.step()
        fleet.withdraw("1.1.0")
        box.take(fleet.offered(b, a))
        await box.step()
        assert loop.work is None
        assert box.committed("1.0.0")
        refused = box.events()[-1]
        assert (refused.kind, refused.code) == ("release_refused", "E-NOT-APPROVED")

    play(story)


def test_a_power_cut_between_hearing_and_recording_brings_no_withdrawn_release_back(
    installed: Installed,
) -> None:
    fleet = installed.fleet

    async def story(box: AgentBox) -> None:
        fleet.withdraw("1.1.0")
        fleet.withdraw("1.0.0")
        box.take(fleet.bundle(NOTHING))  # accepted durably; then the power fails
        assert box.state.active is not None
        assert box.state.active.version == "1.1.0"
        await box.restart()
        box.reconciler.begin_serving(box.now(), 0.0)
        assert not box.reconciler.busy
        for _ in range(5):
            await box.step()
            assert box.serving is None
        assert box.state.phase is ModelPhase.ABSENT
        assert box.told()[-1] == "nothing_to_serve 1.1.0"

    installed.play(story)


@pytest.mark.slow
def test_a_device_that_hears_of_it_days_late_stops_then(installed: Installed) -> None:
    fleet = installed.fleet

    async def story(box: AgentBox) -> None:
        fleet.withdraw("1.1.0")
        late = fleet.bundle(NOTHING)
        box.clock_offset = timedelta(days=5)
        await box.step()
        assert box.serving == "1.1.0"
        box.take(late)
        assert box.serving is None
        await box.until(lambda: box.committed("1.0.0"))

    installed.play(story)


@pytest.mark.slow
def test_what_is_approved_again_serves_again(play: Play, fleet: ModelFleet) -> None:
    a = fleet.model_release("1.0.0")

    async def story(box: AgentBox) -> None:
        await box.install(fleet.current(a), "1.0.0")
        fleet.withdraw("1.0.0")
        box.take(fleet.bundle(NOTHING))
        await box.until(lambda: box.state.phase is ModelPhase.ABSENT)
        fleet.approve_again(a)
        await box.install(fleet.current(a), "1.0.0")

    play(story)


# --- when nothing approved is left ---------------------------------------------------------------


def fallback_of(fleet: ModelFleet) -> tuple[ReleaseRef, ReleaseRef, ReleaseRef]:
    """1.0.0, 1.1.0 and 2.0.0, whose fallback is 1.0.0."""
    a = fleet.model_release("1.0.0")
    b = fleet.model_release("1.1.0", factor=3.0)
    return a, b, fleet.model_release("2.0.0", factor=4.0, fallback="1.0.0")


async def left_with_the_fallback(
    box: AgentBox, fleet: ModelFleet, mode: FailureMode = FailureMode.FAIL_SAFE
) -> None:
    """1.1.0 ran, then 2.0.0; both are withdrawn, the declared fallback 1.0.0 never ran here."""
    _, b, c = fallback_of(fleet)
    await box.install(fleet.current(b), "1.1.0")
    await box.install(fleet.current(c), "2.0.0")
    await box.until(lambda: box.reconciler.loops[MODEL].because == "2.0.0 is current")
    for version in ("1.1.0", "2.0.0"):
        fleet.withdraw(version)
    box.take(fleet.bundle(NOTHING, failure_mode=mode))
    assert box.serving is None


@pytest.mark.slow
def test_the_declared_fallback_is_fetched_ahead_kept_and_served(
    play: Play, fleet: ModelFleet
) -> None:
    async def story(box: AgentBox) -> None:
        await left_with_the_fallback(box, fleet)
        await box.until(lambda: box.committed("1.0.0"))
        returned = box.events()[-1]
        assert (returned.kind, returned.code) == ("returned", "withdrawn")
        assert "to its fallback 1.0.0" in returned.because
        await box.restart()
        await box.until(lambda: box.committed("1.0.0"))

    play(story)


@pytest.mark.slow
@pytest.mark.parametrize("who", ["class", "device", "release"])
def test_fail_closed_serves_nothing_whoever_says_so(
    play: Play, fleet: ModelFleet, who: str
) -> None:
    async def story(box: AgentBox) -> None:
        closed = FailureMode.FAIL_CLOSED
        if who == "device":
            box.device.failure_mode = closed
        if who == "release":
            a = fleet.model_release("1.0.0")
            b = fleet.model_release("2.0.0", factor=4.0, fallback="1.0.0", failure_mode=closed)
            await box.install(fleet.current(a), "1.0.0")
            await box.install(fleet.current(b), "2.0.0")
            # Its predecessor is its fallback: approved, so it may be gone back to in any mode.
            fleet.withdraw("2.0.0")
            box.take(fleet.bundle(NOTHING))
            await box.until(lambda: box.committed("1.0.0"))
            fleet.withdraw("1.0.0")
            box.take(fleet.bundle(NOTHING))
            await box.until(lambda: box.state.phase is ModelPhase.ABSENT)
            assert box.serving is None
            return
        if who == "class":
            await left_with_the_fallback(box, fleet, closed)
        else:
            _, b, c = fallback_of(fleet)
            await box.install(fleet.current(b), "1.1.0")
            await box.install(fleet.current(c), "2.0.0")
            for version in ("1.1.0", "2.0.0"):
                fleet.withdraw(version)
            box.take(fleet.bundle(NOTHING))
        await box.until(lambda: box.state.phase is ModelPhase.ABSENT)
        assert box.serving is None
        nothing = box.events()[-1]
        assert (nothing.kind, nothing.code) == ("nothing_to_serve", "withdrawn")
        assert "fail_closed" in nothing.because

    play(story)


def test_a_device_with_nothing_left_says_so_to_callers_and_in_its_health(
    play: Play, fleet: ModelFleet
) -> None:
    a = fleet.model_release("1.0.0")

    async def story(box: AgentBox) -> None:
        await box.install(fleet.current(a), "1.0.0")
        fleet.withdraw("1.0.0")
        box.take(fleet.bundle(NOTHING))
        await box.until(lambda: box.state.phase is ModelPhase.ABSENT)
        await box.step()
        with pytest.raises(ModelSuspended) as suspended:
            box.runtime.ready(MODEL)
        assert suspended.value.code == "E-MODEL-SUSPENDED"
        with Gateway(box.runtime) as gateway:
            assert infer(gateway)[:2] == (503, "30")
            status, _, health = ask(gateway, "GET", "/v2/health/ready")
            assert status == 503
            assert "not approved any more" in health["not_served"][MODEL]

    play(story)


@pytest.mark.slow
def test_a_withdrawn_fallback_is_no_fallback(play: Play, fleet: ModelFleet) -> None:
    async def story(box: AgentBox) -> None:
        a, _, c = fallback_of(fleet)
        await box.install(fleet.current(a), "1.0.0")
        await box.install(fleet.current(c), "2.0.0")
        for version in ("1.0.0", "2.0.0"):
            fleet.withdraw(version)
        box.take(fleet.bundle(NOTHING))
        await box.until(lambda: box.state.phase is ModelPhase.ABSENT)
        for _ in range(5):
            await box.step()
            assert box.serving is None

    play(story)


@pytest.mark.slow
def test_a_fallback_that_failed_here_is_no_fallback(play: Play, fleet: ModelFleet) -> None:
    async def story(box: AgentBox) -> None:
        a, b, c = fallback_of(fleet)
        await box.install(fleet.current(b), "1.1.0")
        await box.install(fleet.current(c), "2.0.0")
        await box.until(lambda: box.reconciler.loops[MODEL].because == "2.0.0 is current")
        failed = box.state.with_failed(a.digest, 0)
        box.ledger.record(MODEL, replace(failed), box.now())
        for version in ("1.1.0", "2.0.0"):
            fleet.withdraw(version)
        box.take(fleet.bundle(NOTHING))
        await box.until(lambda: box.state.phase is ModelPhase.ABSENT)
        assert box.serving is None

    play(story)

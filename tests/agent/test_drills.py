"""Rollback drills on real workers: proven beside what serves, answered by nobody."""

import asyncio
import dataclasses
import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from agent_box import AgentBox, Story, played
from attack_siege import served
from mailboat_agent.busy import Busy
from mailboat_agent.drill import requests
from mailboat_agent.drill.requests import LocalRequest
from mailboat_agent.drill.watch import DRILL_SECONDS_MAX, LOCAL_MAX
from mailboat_schemas.desired import ReleaseRef
from mailboat_schemas.device_orders import DeviceDesired, Drill
from mailboat_schemas.events import Event
from mailboat_schemas.maintenance import Window
from mailboat_schemas.policy_rules import Rules
from model_fleet import DEVICE, FLEET, MIB, MODEL, Certificates, ModelFleet

Tell = Callable[[Path, ModelFleet, Story], None]
ORDER = "0123456789abcdef"
OTHER = "fedcba9876543210"


@pytest.fixture(scope="module")
def tell(certificates: Certificates) -> Tell:
    """A story of a device in this directory, of this fleet."""

    def run(directory: Path, fleet: ModelFleet, story: Story) -> None:
        with served(certificates, fleet) as server:
            played(story, directory, fleet, server, certificates)

    return run


@dataclass(frozen=True)
class Installed:
    """1.0.0 and then 1.1.0 were installed; 1.1.0 serves."""

    fleet: ModelFleet
    older: ReleaseRef
    newer: ReleaseRef
    data: Path
    play: Callable[[Story], None]


@pytest.fixture(scope="module")
def installed_once(tmp_path_factory: pytest.TempPathFactory, tell: Tell) -> Installed:
    directory = tmp_path_factory.mktemp("installed")
    fleet = ModelFleet(directory / "ceremony")
    a, b = fleet.model_release("1.0.0"), fleet.model_release("1.1.0", factor=3.0)

    async def story(box: AgentBox) -> None:
        await box.install(fleet.current(a), "1.0.0")
        await box.install(fleet.current(b), "1.1.0")

    tell(directory / "data", fleet, story)
    return Installed(fleet, a, b, directory / "data", lambda _: None)


@pytest.fixture
def installed(installed_once: Installed, tmp_path: Path, tell: Tell) -> Installed:
    """A copy of its own for each test, which is started when the story is."""
    data = tmp_path / "data"
    shutil.copytree(installed_once.data, data)
    fleet = installed_once.fleet.copied()

    def play(story: Story) -> None:
        async def serving(box: AgentBox) -> None:
            await box.until(lambda: box.committed("1.1.0"))
            await story(box)

        tell(data, fleet, serving)

    return replace(installed_once, fleet=fleet, data=data, play=play)


def order(
    box: AgentBox,
    *drills: str,
    model: str | None = MODEL,
    counter: int = 1,
    valid: timedelta = timedelta(hours=1),
) -> None:
    """What the centre asks of this device now."""
    expires = int((box.now() + valid).timestamp())
    box.device.order = DeviceDesired(
        fleet=FLEET,
        device=DEVICE,
        counter=counter,
        issued=0,
        drills=tuple(
            Drill(order=each, model=model, by="operator:ana", reason="a test", expires=expires)
            for each in drills
        ),
    )


def told(box: AgentBox) -> list[Event]:
    return [event for event in box.events() if event.kind.startswith("drill_")]


async def until_told(box: AgentBox, count: int = 1) -> Event:
    await box.until(lambda: len(told(box)) >= count)
    return told(box)[-1]


async def until_running(box: AgentBox) -> None:
    await box.until(lambda: box.reconciler.drills.running)


def workers() -> set[int]:
    """Children of this process that run a model."""
    children = Path("/proc/self/task")
    return {
        int(pid)
        for thread in children.iterdir()
        for pid in (thread / "children").read_text().split()
    }


@pytest.mark.slow
def test_a_device_proves_that_it_could_go_back_and_stays_where_it_is(installed: Installed) -> None:
    async def story(box: AgentBox) -> None:
        before = box.runtime.worker_pid(MODEL)
        order(box, ORDER)
        event = await until_told(box)

        assert (event.kind, event.version, event.serving_version) == (
            "drill_passed",
            "1.0.0",
            "1.1.0",
        )
        assert event.digest == installed.older.digest
        assert event.evidence["order"] == ORDER
        assert event.evidence["return_ms"] > 0
        assert event.evidence["samples"] == 1
        assert event.evidence["files_verified"] >= 3
        # Nothing else has happened: the same worker serves the same release.
        assert (box.serving, box.runtime.worker_pid(MODEL)) == ("1.1.0", before)
        assert workers() == {before}
        assert box.state.phase == "committed"
        reported = box.reconciler.drills.reported(MODEL)
        assert reported is not None
        assert (reported.outcome, reported.order) == ("passed", ORDER)

    installed.play(story)


@pytest.mark.slow
def test_a_repeated_order_is_one_drill_also_after_a_restart(installed: Installed) -> None:
    async def story(box: AgentBox) -> None:
        order(box, ORDER)
        await until_told(box)
        order(box, ORDER, counter=2)
        for _ in range(3):
            await box.step()
        await box.restart()
        await box.until(lambda: box.committed("1.1.0"))
        for _ in range(3):
            await box.step()

        assert not box.reconciler.drills.running
        assert len(told(box)) == 1

    installed.play(story)


@pytest.mark.slow
def test_a_withdrawn_release_is_nothing_to_go_back_to(installed: Installed) -> None:
    async def story(box: AgentBox) -> None:
        installed.fleet.withdraw("1.0.0")
        assert box.take(installed.fleet.current(installed.newer))
        order(box, ORDER)
        event = await until_told(box)

        assert (event.kind, event.code) == ("drill_failed", "nothing_to_go_back_to")
        assert event.because == "no release to go back to: 1.0.0 is not approved any more"
        assert box.serving == "1.1.0"

    installed.play(story)


@pytest.mark.slow
def test_a_damaged_release_fails_its_drill_and_is_fetched_again(installed: Installed) -> None:
    async def story(box: AgentBox) -> None:
        document = box.manifest.document(installed.older.digest)
        assert document is not None
        model = document.variants[0].model_file.artifact_digest
        path = box.store.path(model)
        content = path.read_bytes()
        path.chmod(0o644)
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        order(box, ORDER)
        event = await until_told(box)
        assert (event.kind, event.code) == ("drill_failed", "storage_damaged")

        await box.until(lambda: box.store.has(model))
        order(box, OTHER, counter=2)
        assert (await until_told(box, 2)).kind == "drill_passed"
        assert path.read_bytes() == content

    installed.play(story)


@pytest.mark.slow
@pytest.mark.parametrize("valid", [timedelta(hours=1), timedelta(hours=-1)])
def test_a_drill_that_cannot_be_is_told_as_skipped(installed: Installed, valid: timedelta) -> None:
    async def story(box: AgentBox) -> None:
        order(box, ORDER, model="another", valid=valid)
        event = await until_told(box)
        assert (event.kind, event.code, event.model) == (
            "drill_skipped",
            "no_such_model",
            "another",
        )
        order(box, OTHER, counter=2, valid=timedelta(seconds=-1))
        event = await until_told(box, 2)
        assert (event.kind, event.code) == ("drill_skipped", "expired")

    installed.play(story)


@pytest.mark.slow
def test_memory_that_somebody_has_is_not_taken_for_a_drill(installed: Installed) -> None:
    async def story(box: AgentBox) -> None:
        residency = box.runtime._switch._residency
        residency.budget_bytes = residency.held_bytes + MIB
        before = box.runtime.worker_pid(MODEL)
        order(box, ORDER)
        event = await until_told(box)

        assert (event.kind, event.code) == ("drill_skipped", "memory")
        assert box.runtime.worker_pid(MODEL) == before

    installed.play(story)


@pytest.mark.slow
def test_whoever_needs_the_memory_of_a_drill_has_it(installed: Installed) -> None:
    async def story(box: AgentBox) -> None:
        residency = box.runtime._switch._residency
        free_bytes = 256 * MIB
        residency.budget_bytes = residency.held_bytes + free_bytes
        held_bytes = residency.held_bytes
        order(box, ORDER)
        await until_running(box)
        drills = box.reconciler.drills
        await box.until_seen(lambda: residency.held_bytes > held_bytes or not drills.running)

        claim = await asyncio.to_thread(residency.claim, "another", free_bytes, lambda: None)
        residency.release(claim)
        await box.until(lambda: not box.reconciler.drills.running)
        assert told(box) == []
        assert "given up" in str(box.reconciler.drills.for_people())

    installed.play(story)


@pytest.mark.slow
def test_a_new_release_ends_a_drill_at_once(installed: Installed) -> None:
    async def story(box: AgentBox) -> None:
        third = installed.fleet.model_release("1.2.0", factor=4.0)
        order(box, ORDER)
        await until_running(box)
        await box.install(installed.fleet.current(third), "1.2.0")

        assert box.told()[-3:] == ["trial_started 1.2.0", "soak_started 1.2.0", "committed 1.2.0"]
        assert told(box) == []
        watched = box.reconciler.drills
        watched._not_before = 0.0  # the pause is over
        event = await until_told(box)
        # By now a rollback goes to the release that served when the order came.
        assert (event.kind, event.version) == ("drill_passed", "1.1.0")

    installed.play(story)


@pytest.mark.slow
def test_a_release_that_is_withdrawn_while_it_is_drilled_is_dropped(installed: Installed) -> None:
    async def story(box: AgentBox) -> None:
        order(box, ORDER)
        await until_running(box)
        installed.fleet.withdraw("1.0.0")
        assert box.take(installed.fleet.current(installed.newer))
        await box.step()
        await box.until(lambda: not box.reconciler.drills.running)

        assert workers() == {box.runtime.worker_pid(MODEL)}
        box.reconciler.drills._not_before = 0.0
        event = await until_told(box)
        assert (event.kind, event.code) == ("drill_failed", "nothing_to_go_back_to")

    installed.play(story)


@pytest.mark.slow
def test_a_busy_application_and_a_hot_device_come_first(
    installed: Installed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(box: AgentBox) -> None:
        sign, heat = tmp_path / "busy", "thermal"
        sign.touch()
        monkeypatch.setattr(AgentBox, "busy", Busy(sign, 600))
        await box.restart()
        await box.until(lambda: box.committed("1.1.0"))
        drills = box.reconciler.drills
        drills._pressure = lambda: heat
        order(box, ORDER)
        for _ in range(3):
            await box.step()
        assert "busy" in drills.for_people()[MODEL]["waits"]
        sign.unlink()
        await box.step()
        assert "thermal" in drills.for_people()[MODEL]["waits"]
        heat = ""
        await until_running(box)
        heat = "power"
        await box.step()
        await box.until(lambda: not drills.running)
        assert told(box) == []

        # Its order ends while it waits: what it waited for is why nothing was learnt.
        box.clock_offset += timedelta(hours=2)
        event = await until_told(box)
        assert (event.kind, event.code) == ("drill_skipped", "power")

    installed.play(story)


@pytest.mark.slow
def test_what_is_taken_back_is_not_drilled(installed: Installed) -> None:
    async def story(box: AgentBox) -> None:
        order(box, ORDER)
        await until_running(box)
        order(box, counter=2)
        await box.step()
        await box.until(lambda: not box.reconciler.drills.running)
        box.reconciler.drills._not_before = 0.0
        await box.step()

        assert not box.reconciler.drills.running
        assert told(box) == []

    installed.play(story)


@pytest.mark.slow
def test_a_drill_that_is_not_over_in_time_is_given_up_and_told(installed: Installed) -> None:
    async def story(box: AgentBox) -> None:
        order(box, ORDER)
        await until_running(box)
        # As if it had begun so long ago: its release may have a deadline beyond any bound.
        box.reconciler.drills._began -= DRILL_SECONDS_MAX
        event = await until_told(box)

        assert (event.kind, event.code) == ("drill_skipped", "time")
        assert event.because == "it was not over after 1800 s"

    installed.play(story)


@pytest.mark.slow
def test_more_than_may_wait_at_the_device_are_passed_over(installed: Installed) -> None:
    async def story(box: AgentBox) -> None:
        watch = box.reconciler.drills
        for number in range(1, LOCAL_MAX + 4):
            request = LocalRequest(number=number, reason="again", model="no-such-model")
            requests.lay_down(box.directory, request)
            watch._take_local(box.reconciler.loops)
        assert len(watch._local) == LOCAL_MAX
        assert watch._local[0].order == "local-1"

    installed.play(story)


@pytest.mark.slow
def test_somebody_at_the_device_asks_without_a_network(installed: Installed) -> None:
    async def story(box: AgentBox) -> None:
        requests.lay_down(box.directory, LocalRequest(number=42, reason="on site"))
        event = await until_told(box)

        assert (event.kind, event.evidence["order"]) == ("drill_passed", "local-42")
        assert not (box.directory / requests.REQUEST_NAME).exists()

    installed.play(story)


@pytest.mark.slow
def test_a_disk_that_is_full_begins_no_drill_and_loses_no_word(
    installed: Installed, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_open, full = os.open, True

    def refusing(path: Any, *args: Any, **kwargs: Any) -> int:
        if full and str(path).endswith("drills.json.new"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real_open(path, *args, **kwargs)

    async def story(box: AgentBox) -> None:
        nonlocal full
        monkeypatch.setattr(os, "open", refusing)
        drills = box.reconciler.drills
        order(box, ORDER)
        await box.step()
        assert not drills.running  # an attempt that cannot be counted is none
        assert drills.for_people()[MODEL]["waits"] == "the disk takes no record of it"

        full, drills._not_before = False, 0.0
        await until_running(box)
        full = True  # and now it cannot say how it ended
        await box.until(lambda: not drills.running)
        assert told(box) == []
        full, drills._book._not_before = False, 0.0
        assert (await until_told(box)).kind == "drill_passed"

    installed.play(story)


@pytest.mark.slow
def test_the_schedule_drills_once_in_a_period_and_in_an_open_window(installed: Installed) -> None:
    async def story(box: AgentBox) -> None:
        drills, rules = box.reconciler.drills, Rules(drill_every_days=1)
        drills._rules = lambda: rules
        for _ in range(3):
            await box.step()
        assert not drills.running  # a new schedule begins with the next period
        shut = box.now() + timedelta(days=1)
        days = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
        never_now = Window(days=(days[(shut.weekday() + 3) % 7],), start="00:00", length_minutes=60)
        rules = dataclasses.replace(rules, windows=(never_now,))
        box.clock_offset += timedelta(days=1)
        await box.step()
        await box.step()
        assert not drills.running
        rules = dataclasses.replace(rules, windows=())
        event = await until_told(box)
        assert (event.kind, event.evidence["order"][:4]) == ("drill_passed", "due-")
        for _ in range(3):
            await box.step()
        box.clock_offset -= timedelta(hours=23)  # the clock goes back: nothing is due again
        for _ in range(3):
            await box.step()
        assert not drills.running
        assert len(told(box)) == 1

    installed.play(story)


@pytest.mark.slow
def test_a_period_that_a_clock_was_ahead_in_is_not_drilled_twice(installed: Installed) -> None:
    async def story(box: AgentBox) -> None:
        drills = box.reconciler.drills
        drills._rules = lambda: Rules(drill_every_days=1)
        await box.step()
        box.clock_offset = timedelta(days=3)
        ahead = await until_told(box)
        box.clock_offset = timedelta()
        for _ in range(3):
            await box.step()
        assert not drills.running
        box.clock_offset = timedelta(days=3)  # that day comes
        for _ in range(3):
            await box.step()
        assert not drills.running
        assert told(box) == [ahead]

        box.clock_offset = timedelta(days=4)
        following = await until_told(box, 2)
        assert following.event_id != ahead.event_id

    installed.play(story)

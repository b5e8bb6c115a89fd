"""A clock that jumps in the middle of things: what serves serves on, nothing is judged by it.

All waiting is measured with the monotonic clock. What the wall clock decides, whether trust
metadata holds and what may be installed on it, waits until the clock is right again.
"""

import asyncio
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.faults import world
from tests.faults.acknowledged import Acknowledged
from tests.faults.device import WAIT_SECONDS, Life, live
from tests.faults.world import World

from mailboat_agent.drift.watch import DriftWatch
from mailboat_agent.facts import Look
from mailboat_agent.update.allowance import Allowance
from mailboat_agent.update.retry import RETRY_SECONDS_MAX, Backoff
from mailboat_schemas.events import EventKind
from mailboat_schemas.reports import ModelPhase
from model_fleet import ModelFleet

Jump = Callable[[datetime], datetime]
JUMPS: dict[str, Jump] = {
    "to 1970": lambda _: datetime(1970, 1, 1, tzinfo=UTC),
    "to 2099": lambda _: datetime(2099, 1, 1, tzinfo=UTC),
    "back by a day": lambda now: now - timedelta(days=1),
    "forward by a month": lambda now: now + timedelta(days=31),
}
WITHOUT_FAULT = {
    EventKind.TRIAL_STARTED,
    EventKind.SOAK_STARTED,
    EventKind.COMMITTED,
    EventKind.CLOCK_UNTRUSTED,
    EventKind.TRUST_STALE,
}
SOAK_SECONDS = int(2.5 * WAIT_SECONDS)
MOMENTS = ("download", "trial", "soak", "rest")


@pytest.fixture(scope="module")
def soaking(tmp_path_factory: pytest.TempPathFactory) -> World:
    """2.0.0 soaks for a few looks."""
    fleet = ModelFleet(tmp_path_factory.mktemp("fleet") / "ceremony")

    def bundle(version: str, soak_seconds: int) -> bytes:
        model = world.model_bytes(world.GOOD, version)
        soak = {"seconds": soak_seconds}
        return fleet.current(fleet.model_release(version, model=model, samples=b"g", soak=soak))

    bundles = {"second": (bundle("1.0.0", 0), bundle("2.0.0", SOAK_SECONDS))}
    return World(fleet.factory_root, fleet.artifacts, bundles, frozenset())


@pytest.fixture(autouse=True)
def _in_that_world(soaking: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "_current", soaking)


async def come_to(life: Life, moment: str) -> None:
    """2.0.0 is offered, and comes so far; "rest" is after all of it."""
    life.source.connected = moment != "download"
    assert life.take(world.current().bundles["second"][1])
    for _ in range(20):
        if life.model.phase == moment:
            return
        await life.step()
    assert moment in ("download", "rest")


QUICK = {("to 1970", "download"), ("to 2099", "soak"), ("forward by a month", "trial")}


@pytest.mark.parametrize(
    ("jump", "moment"),
    [
        pytest.param(
            jump,
            moment,
            id=f"{name} in {moment}",
            marks=() if (name, moment) in QUICK else pytest.mark.slow,
        )
        for name, jump in JUMPS.items()
        for moment in MOMENTS
    ],
)
def test_a_clock_that_jumps_ends_nothing_and_is_no_verdict(
    tmp_path: Path, jump: Jump, moment: str
) -> None:
    async def story(life: Life) -> None:
        assert life.take(world.current().bundles["second"][0])
        await life.until(lambda: life.serves("1.0.0"))
        await come_to(life, moment)
        right = life.now

        for wrong in (jump(right), right, jump(right)):
            life.now = wrong
            for _ in range(5):
                await life.step()
                assert life.serving is not None
                assert life.serving.release.version in ("1.0.0", "2.0.0")
                assert life.model.failed == {}
        life.now, life.source.connected = right, True
        await life.until(lambda: life.serves("2.0.0"))
        told = {event.kind for event in life.journal.events_after(0, 1000, 1 << 20)}
        assert told <= WITHOUT_FAULT

    live(tmp_path / "device", story, Acknowledged())


@pytest.mark.slow
@pytest.mark.parametrize("jump", JUMPS.values(), ids=JUMPS)
def test_a_start_with_a_wrong_clock_serves_and_takes_up_where_it_was(
    tmp_path: Path, jump: Jump
) -> None:
    told = Acknowledged()

    async def before(life: Life) -> None:
        assert life.take(world.current().bundles["second"][0])
        await life.until(lambda: life.serves("1.0.0"))
        await come_to(life, "trial")

    async def after(life: Life) -> None:
        right, life.now = life.now, jump(life.now)
        for _ in range(5):
            await life.step()
            assert life.serving is not None
        life.now = right
        await life.until(lambda: life.serves("2.0.0"))
        assert life.ledger.state.session < 2 * right.timestamp()

    live(tmp_path / "device", before, told)
    live(tmp_path / "device", after, told)


def test_a_floor_is_not_moved_by_the_clock_of_the_device(tmp_path: Path) -> None:
    async def story(life: Life) -> None:
        right, life.now = life.now, JUMPS["to 2099"](life.now)
        life.take(world.current().bundles["second"][0])
        for _ in range(5):
            await life.step()
        assert life.ledger.state.time_floor <= right.timestamp() + 1
        life.now = right
        await life.until(lambda: life.serves("1.0.0"))

    live(tmp_path / "device", story, Acknowledged())


@pytest.mark.slow
def test_a_soak_lasts_as_long_as_it_lasts_whatever_the_clock_says(tmp_path: Path) -> None:
    """A jump by a month is no month of soak, and one back does not begin it anew."""
    looks: dict[str, int] = {}

    for name, jump in {"": lambda now: now, **JUMPS}.items():

        async def story(life: Life, name: str = name, jump: Jump = jump) -> None:
            assert life.take(world.current().bundles["second"][0])
            await life.until(lambda: life.serves("1.0.0"))
            await come_to(life, "soak")
            life.now = jump(life.now)
            while life.model.phase is ModelPhase.SOAK:
                await life.step()
                looks[name] = looks.get(name, 0) + 1
                assert looks[name] < 50
            assert life.serves("2.0.0")

        live(tmp_path / f"device {name}", story, Acknowledged())

    assert looks[""] >= SOAK_SECONDS / WAIT_SECONDS
    assert set(looks.values()) == {looks[""]}


def test_the_disk_is_checked_by_elapsed_time(tmp_path: Path) -> None:
    async def checks(life: Life, jump: Jump) -> list[float]:
        watch = DriftWatch(
            store=life.store,
            manifest=life.manifest,
            ledger=life.ledger,
            memory=lambda *_: None,
            rng=random.Random(1),
        )
        began = []
        for number in range(400):  # four days, a look each quarter of an hour
            now = jump(life.now) if number % 3 else life.now
            look = Look(now=now, monotonic=900.0 * number, clock_trusted=True, trust_fresh=True)
            watch.step([], look)
            if watch._task is not None:
                began.append(look.monotonic)
                await asyncio.wait([watch._task])
                watch.step([], look)
        return began

    async def story(life: Life) -> None:
        undisturbed = await checks(life, lambda now: now)
        assert len(undisturbed) in (4, 5)
        for jump in JUMPS.values():
            assert await checks(life, jump) == undisturbed

    live(tmp_path / "device", story, Acknowledged())


def test_an_allowance_gives_a_burst_at_most_when_the_clock_jumps_and_is_never_used_up() -> None:
    allowance = Allowance(burst=10, seconds_each=60)
    for at in (1e9, 0.0, 4e9, 0.0, 1e9):  # to and fro
        assert sum(allowance.take(at) for _ in range(100)) <= 10
    assert allowance.take(1e9 + 61)


def test_no_back_off_is_longer_than_its_bound_after_any_number_of_failures() -> None:
    """It is given the monotonic clock, which does not jump; a suspended device's may stand."""
    backoff = Backoff(random.Random(1))
    for _ in range(1000):
        backoff.failed(5.0)
    assert backoff.allows(5.0 + RETRY_SECONDS_MAX)

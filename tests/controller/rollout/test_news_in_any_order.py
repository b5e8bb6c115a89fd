"""What devices tell comes late, twice, in another order, from clocks that are days off: through the
database and the decision of the controller it comes to the same counts and the same decision."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any, NoReturn

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller_core import PPM, Core, plan
from enrolled_fleet import CLASS, FLEET, NOON, EnrolledDevice
from mailboat_controller import rollout_facts
from mailboat_controller.ingest.batch import ingest
from mailboat_controller.mqtt.incoming import Incoming
from mailboat_controller.rollout.state import Phase
from mailboat_controller.rollout_facts import Classes
from mailboat_controller.store import outcomes, rollouts
from mailboat_controller.store.engine import Store
from mailboat_controller.store.outcomes import OutcomeRow
from mailboat_controller.store.transaction import Transaction
from mailboat_schemas.events import Event, EventKind
from mailboat_schemas.plan import PlanWave

DEVICES = 6
OFF_RING = "dev-6"  # matches no ring of the plan
# Rings that overlap: dev-1 and dev-2 have both labels.
WAVES = (
    PlanWave(pilots=("dev-1",)),
    PlanWave(count_ppm=PPM, cap_ppm=PPM, ring={"floor": "one"}),
    PlanWave(count_ppm=PPM, cap_ppm=PPM, ring={"ring": "lab"}),
)
LABELS: Mapping[str, dict[str, str]] = {
    "dev-1": {"floor": "one", "ring": "lab"},
    "dev-2": {"floor": "one", "ring": "lab"},
    "dev-3": {"floor": "one"},
    "dev-4": {"ring": "lab"},
    "dev-5": {"ring": "lab"},
    OFF_RING: {"floor": "three"},
}
TRIED = (EventKind.TRIAL_STARTED, EventKind.COMMITTED)
# What one device may tell of one release, in the order it happened there.
STORIES: Sequence[tuple[EventKind, ...]] = (
    (),
    (EventKind.RELEASE_REFUSED,),
    (EventKind.TRIAL_STARTED,),
    TRIED,
    TRIED,
    TRIED,
    (EventKind.TRIAL_STARTED, EventKind.RETURNED),
    (EventKind.TRIAL_STARTED, EventKind.TRIAL_FAILED),
    (*TRIED, EventKind.ROLLED_BACK),
)
DAY_MS = 86_400_000
NOON_MS = int(NOON.timestamp() * 1000)
# Never set, two days slow, right, ten years fast.
CLOCKS_MS = (0, NOON_MS - 2 * DAY_MS, NOON_MS, NOON_MS + 3650 * DAY_MS)

fleet_stories = st.lists(st.sampled_from(STORIES), min_size=DEVICES, max_size=DEVICES)
clocks = st.lists(st.sampled_from(CLOCKS_MS), min_size=DEVICES, max_size=DEVICES)


class Undone(Exception):
    """Ends a transaction whose changes nobody wants to keep."""


@contextmanager
def undone(store: Store) -> Iterator[Transaction]:
    with suppress(Undone), store.transaction() as tx:
        yield tx
        undo()


def undo() -> NoReturn:
    raise Undone


class Desk:
    def __init__(self, directory: Path) -> None:
        self.core = Core(directory)
        self.devices = [self.core.fleet.enrol(name, labels=LABELS[name]) for name in LABELS]
        self.digest = self.core.release("1.0.0", plan("first", *WAVES))

    def told(
        self, device: EnrolledDevice, kinds: Sequence[EventKind], clock: int
    ) -> list[Incoming]:
        """One message for each event: nothing says that they come together."""
        about = {"model": "vad", "version": "1.0.0", "digest": self.digest, "observed_at": clock}
        return [device.tells(n, kind, **about) for n, kind in enumerate(kinds, start=1)]

    def after(self, messages: Sequence[Incoming], *, deciding_each_time: bool) -> dict[str, Any]:
        """What people see of the rollout once all of it was told; nothing of it is kept."""
        with undone(self.core.store) as tx:
            for message in messages:
                assert not ingest(tx, [message], fleet=FLEET, now=NOON).quarantined
                if deciding_each_time:
                    self.core.reconciler.reconcile(tx, NOON)
            self.core.reconciler.reconcile(tx, NOON)
            return seen(tx)

    def outcomes_after(self, parts: Sequence[Sequence[tuple[str, Event]]]) -> list[OutcomeRow]:
        with undone(self.core.store) as tx:
            for part in parts:
                outcomes.fold_all(tx, part, NOON)
            return list(outcomes.of_release(tx, self.digest))


def seen(tx: Transaction) -> dict[str, Any]:
    return rollout_facts.status(tx, rollouts.get(tx, "first"), Classes(tx))


def on_its_way(each: Sequence[list[Incoming]], rng: Random) -> list[Incoming]:
    """Every message some times in any order; then each device tells what was not confirmed, which
    may be all of it, in the order it happened. The devices' turns are mixed."""
    wild = [message for told in each for message in told for _ in range(rng.randint(0, 2))]
    rng.shuffle(wild)
    queues = [list(told) for told in each if told]
    turns: list[Incoming] = []
    while queues:
        queue = rng.choice(queues)
        turns.append(queue.pop(0))
        queues = [left for left in queues if left]
    return [*wild, *turns]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    desk = Desk(tmp_path_factory.mktemp("desk"))
    yield desk
    desk.core.store.close()


@given(fleet_stories, clocks, st.integers(0, 2**32))
@settings(max_examples=6, deadline=None)
def test_the_same_news_in_any_order_comes_to_the_same_counts_and_decision(
    desk: Desk, stories: list[tuple[EventKind, ...]], clocks_ms: list[int], seed: int
) -> None:
    check_any_order(desk, stories, clocks_ms, seed)


@pytest.mark.slow
@given(fleet_stories, clocks, st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_and_so_it_does_in_many_more_stories(
    desk: Desk, stories: list[tuple[EventKind, ...]], clocks_ms: list[int], seed: int
) -> None:
    check_any_order(desk, stories, clocks_ms, seed)


def check_any_order(
    desk: Desk, stories: list[tuple[EventKind, ...]], clocks_ms: list[int], seed: int
) -> None:
    each = [
        desk.told(device, kinds, clock)
        for device, kinds, clock in zip(desk.devices, stories, clocks_ms, strict=True)
    ]
    in_order = [message for told in each for message in told]

    expected = desk.after(in_order, deciding_each_time=False)
    found = desk.after(on_its_way(each, Random(seed)), deciding_each_time=False)

    assert found == expected
    check_sums(found, stories)


@given(fleet_stories, clocks, st.integers(0, 2**32))
@settings(max_examples=3, deadline=None)
def test_deciding_after_each_message_comes_to_the_same_end(
    desk: Desk, stories: list[tuple[EventKind, ...]], clocks_ms: list[int], seed: int
) -> None:
    check_deciding_each_time(desk, stories, clocks_ms, seed)


@pytest.mark.slow
@given(fleet_stories, clocks, st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_and_so_does_deciding_in_many_more_stories(
    desk: Desk, stories: list[tuple[EventKind, ...]], clocks_ms: list[int], seed: int
) -> None:
    check_deciding_each_time(desk, stories, clocks_ms, seed)


def check_deciding_each_time(
    desk: Desk, stories: list[tuple[EventKind, ...]], clocks_ms: list[int], seed: int
) -> None:
    each = [
        desk.told(device, kinds, clock)
        for device, kinds, clock in zip(desk.devices, stories, clocks_ms, strict=True)
    ]
    in_order = [message for told in each for message in told]

    expected = desk.after(in_order, deciding_each_time=False)
    found = desk.after(on_its_way(each, Random(seed)), deciding_each_time=True)

    failed = any(story and story[-1] in FAILED for story in stories)
    assert found["phase"] == expected["phase"]
    assert (found["phase"] == Phase.HALTED) == failed
    check_sums(found, stories)


FAILED = {EventKind.TRIAL_FAILED, EventKind.ROLLED_BACK}


def check_sums(found: Mapping[str, Any], stories: Sequence[tuple[EventKind, ...]]) -> None:
    counts = found["classes"][CLASS]
    for part in (counts, *counts["waves"]):
        places = [part[name] for name in ("not_open", "waiting", "in_progress", "ok", "failed")]
        assert part["eligible"] == sum(places)
        assert part["devices"] == part["eligible"] + sum(part["excluded"].values())
    ends = [story[-1] if story else None for story in stories]
    assert counts["devices"] == DEVICES
    assert counts["ok"] == ends.count(EventKind.COMMITTED)
    assert counts["failed"] == sum(end in FAILED for end in ends)
    off_ring = ends[list(LABELS).index(OFF_RING)]
    assert counts["excluded"].get("in no ring of the plan", 0) == (
        off_ring not in {EventKind.COMMITTED, EventKind.RELEASE_REFUSED, *FAILED}
    )
    # Who is in two rings counts in one wave alone.
    assert sum(wave["devices"] for wave in counts["waves"]) <= DEVICES - 1


@given(fleet_stories, st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
def test_a_journal_that_was_lost_and_told_anew_in_another_order_changes_no_outcome(
    desk: Desk, stories: list[tuple[EventKind, ...]], seed: int
) -> None:
    """Then the numbers of a device's events say nothing, and only what they tell counts."""
    told = [
        (device.name, device.event(n, kind, digest=desk.digest, model="vad", because=kind.value))
        for device, kinds in zip(desk.devices, stories, strict=True)
        for n, kind in enumerate(kinds, start=1)
    ]
    wild = [*told, *told]
    Random(seed).shuffle(wild)

    assert desk.outcomes_after([wild]) == desk.outcomes_after([told])
    assert desk.outcomes_after([[each] for each in wild]) == desk.outcomes_after([told])


def test_a_verdict_dated_ten_years_ahead_or_two_days_back_counts_from_when_it_came(
    desk: Desk,
) -> None:
    """A device's clock decides nothing: neither who is overdue nor when a wave was exposed."""
    exposed = []
    for clock in CLOCKS_MS:
        messages = desk.told(desk.devices[0], TRIED, clock)
        with undone(desk.core.store) as tx:
            ingest(tx, messages, fleet=FLEET, now=NOON + timedelta(hours=1))
            row = rollouts.get(tx, "first")
            members = rollout_facts.load(tx, row.rollout, [CLASS], Classes(tx))
            exposed += [m.exposed_at_ms for m in members[CLASS] if m.exposed_at_ms]

    assert exposed == [NOON_MS + 3_600_000] * len(CLOCKS_MS)

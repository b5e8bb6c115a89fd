"""Looking at a rollout costs a pass over its devices, so pages share what was seen."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from controller_core import EVERYBODY, Core, plan
from mailboat_controller.console import rollout_looks
from mailboat_controller.console.rollout_looks import RolloutLooks
from mailboat_controller.rollout.state import Phase, Trigger
from mailboat_controller.store import rollouts
from mailboat_schemas.errors import NotFound
from mailboat_schemas.events import EventKind
from mailboat_schemas.plan import PlanWave


class SlowClock:
    """Every look at it is a tenth of a second later, so a look at a rollout takes as long."""

    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        self.at += 0.1
        return self.at


class Fleet(Core):
    """Three devices, and a rollout that waits on its pilot."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.devices = {n: self.fleet.enrol(f"dev-{n}") for n in (1, 2, 3)}
        self.digest = self.release("1.0.0", plan("first", PlanWave(pilots=("dev-1",)), EVERYBODY))
        self.run()


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    core = Fleet(tmp_path_factory.mktemp("core"))
    yield core
    core.store.close()


def test_what_was_seen_lately_is_shown_again_and_says_of_when(core: Fleet) -> None:
    clock = SlowClock()
    looks = RolloutLooks(clock)
    first = looks.of(core.store, "first", core.now)
    again = looks.of(core.store, "first", core.now + timedelta(seconds=1))
    clock.at += 10
    later = looks.of(core.store, "first", core.now + timedelta(seconds=11))

    assert again == first
    assert again.prospects is first.prospects
    assert (first.at, later.at) == (core.now, core.now + timedelta(seconds=11))


def test_a_rollout_that_has_moved_is_looked_at_anew(core: Fleet) -> None:
    looks = RolloutLooks(SlowClock())
    assert looks.of(core.store, "first", core.now).row.rollout.phase is Phase.RUNNING
    core.reconciler.order("first", Trigger.PAUSE, actor="a", reason="r", now=core.now)

    paused = looks.of(core.store, "first", core.now)

    assert paused.row.rollout.phase is Phase.PAUSED
    assert {each.trigger for each in paused.prospects} == {
        Trigger.RESUME,
        Trigger.ABORT,
        Trigger.PROMOTE,
    }
    core.reconciler.order("first", Trigger.RESUME, actor="a", reason="r", now=core.now)


def test_news_that_moves_nothing_is_read_without_looking_at_the_devices_again(core: Fleet) -> None:
    looks = RolloutLooks(SlowClock())
    first = looks.of(core.store, "first", core.now)
    with core.store.transaction() as tx:
        row = rollouts.get(tx, "first")
        told = replace(row.rollout, because="13 of 20 are good")
        rollouts.save(tx, replace(row, rollout=told), core.now)

    again = looks.of(core.store, "first", core.now)

    assert again.row.rollout.because == "13 of 20 are good"
    assert again.prospects is first.prospects


def test_only_so_many_are_kept(core: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout_looks, "KEPT_MAX", 0)
    looks = RolloutLooks(SlowClock())
    first = looks.of(core.store, "first", core.now)

    assert looks.of(core.store, "first", core.now).prospects is not first.prospects


def test_a_rollout_that_there_is_not_is_not_found(core: Fleet) -> None:
    with pytest.raises(NotFound, match="no rollout nothing"):
        RolloutLooks().of(core.store, "nothing", core.now)


def test_many_who_ask_at_once_get_one_look(core: Fleet) -> None:
    looks, found = RolloutLooks(SlowClock()), []

    def ask() -> None:
        found.append(looks.of(core.store, "first", core.now))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len({id(each.prospects) for each in found}) == 1


@pytest.mark.slow
def test_an_abort_says_where_devices_go_back_and_then_they_are_told_so(tmp_path: Path) -> None:
    core = Fleet(tmp_path)
    back = {"kiosk-x86": None}
    assert RolloutLooks().of(core.store, "first", core.now).goes_back_to == back
    for number in (1, 2, 3):
        core.tell(core.devices[number], EventKind.COMMITTED, core.digest)
    core.release("1.1.0", plan("second"))
    core.run()

    seen = RolloutLooks().of(core.store, "second", core.now)
    assert seen.goes_back_to == {"kiosk-x86": "1.0.0"}
    core.reconciler.order("second", Trigger.ABORT, actor="a", reason="r", now=core.now)
    assert core.assignment().current is not None
    assert core.assignment().current.version == "1.0.0"
    assert core.assignment().offer is None
    core.store.close()


def test_while_somebody_looks_others_are_shown_what_was_seen_before(core: Fleet) -> None:
    clock = SlowClock()
    looks = RolloutLooks(clock)
    first = looks.of(core.store, "first", core.now)
    clock.at += 1000  # too old to be shown again, if nobody looked

    with looks._looking.turn():
        meanwhile = looks.of(core.store, "first", core.now + timedelta(seconds=1000))

    assert (meanwhile.at, meanwhile.prospects) == (first.at, first.prospects)

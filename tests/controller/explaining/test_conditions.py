"""Whoever is told "3 devices have little disk left" finds the three by a selector."""

import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from controller_core import CLASS, Core
from enrolled_fleet import NOON
from mailboat_controller.explaining.conditions import Condition
from mailboat_controller.explaining.selection import select
from mailboat_controller.presence import Reach
from mailboat_controller.store import device_signs, fleet_counts, overview_rows
from mailboat_controller.store.fleet_counts import DISK_LOW_BYTES, SAID_FOR, SILENT
from mailboat_schemas.selectors import parse

NOON_MS = int(NOON.timestamp() * 1000)


@pytest.fixture
def core(tmp_path: Path) -> Iterator[Core]:
    core = Core(tmp_path)
    yield core
    core.store.close()


def named(core: Core, selector: str, now: datetime = NOON) -> list[str]:
    with core.store.read() as tx:
        return [row.device for row in select(tx, parse(selector), Reach(), now, limit=100)]


def test_each_condition_names_the_devices_that_are_in_it(core: Core) -> None:
    for name in ("low", "wrong", "twice", "well"):
        device = core.fleet.enrol(name)
        free_bytes = DISK_LOW_BYTES - (name == "low")
        offset_ms = -60_001 if name == "wrong" else 60_000
        core.fleet.take(
            device.report(facts={"disk_free_bytes": free_bytes}, observed_at=NOON_MS + offset_ms)
        )
    with core.store.transaction() as tx:
        device_signs.set_doubled(tx, "twice", by="two at once", at=NOON)

    assert named(core, "condition=disk-low") == ["low"]
    assert named(core, "condition=clock-wrong") == ["wrong"]
    assert named(core, "condition=doubled") == ["twice"]
    assert named(core, "condition in (disk-low,doubled)") == ["low", "twice"]
    assert named(core, "!condition") == ["well"]
    assert named(core, "condition", NOON + SILENT) == ["low", "wrong", "twice"]
    after = NOON + SILENT + timedelta(milliseconds=1)
    assert named(core, "condition=silent", after) == ["low", "wrong", "twice", "well"]


def test_nobody_misses_a_device_whose_silence_is_expected(core: Core) -> None:
    core.add_class(CLASS, when_disconnected="expected")
    core.fleet.enrol("asleep")

    assert named(core, "condition", NOON + 9 * SILENT) == []


@pytest.mark.parametrize("seed", range(3))
def test_the_selector_names_as_many_as_the_figures_count(core: Core, seed: int) -> None:
    rng = random.Random(seed)
    for number in range(12):
        device = core.fleet.enrol(f"dev-{number}")
        spoke = NOON + rng.choice((timedelta(), SAID_FOR - SILENT, SAID_FOR, SAID_FOR + SILENT))
        if rng.random() < 0.8:
            free_bytes = DISK_LOW_BYTES + rng.choice((-1, 0))
            at = int(spoke.timestamp() * 1000) + rng.choice((0, 60_000, 60_001))
            core.fleet.take(
                device.report(facts={"disk_free_bytes": free_bytes}, observed_at=at), now=spoke
            )
        if rng.random() < 0.3:
            with core.store.transaction() as tx:
                device_signs.set_doubled(tx, device.name, by="two at once", at=spoke)
    now = NOON + 2 * SAID_FOR

    with core.store.read() as tx:
        (site,) = fleet_counts.by_site(tx, now)
        doubled = overview_rows.doubled_since(tx, now)
    counted = {
        Condition.DISK_LOW: site.disk_low,
        Condition.CLOCK_WRONG: site.clock_wrong,
        Condition.SILENT: site.unseen[1],
        Condition.DOUBLED: doubled,
    }
    assert {each: len(named(core, f"condition={each}", now)) for each in Condition} == counted
    assert any(counted.values())

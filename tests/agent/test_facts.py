"""What a device says of the room it has."""

from pathlib import Path

import pytest

from agent_box import device_facts
from mailboat_agent.artifacts.release_store import ReleaseStore
from mailboat_schemas.class_budgets import ClassBudgets
from small_disk import run_on_small_disk

SUPPORT = str(Path(__file__).parent.parent / "support")
MIB = 1 << 20


@pytest.fixture
def store(tmp_path: Path) -> ReleaseStore:
    return ReleaseStore(tmp_path)


@pytest.mark.slow
def test_a_download_does_not_take_away_the_room_it_was_promised(tmp_path: Path) -> None:
    """Else a release that just fits would be refused when half of it is here."""
    program = """
    import sys
    sys.path.insert(0, SUPPORT)
    from agent_box import device_facts
    from mailboat_agent.artifacts.release_store import ReleaseStore

    store, device = ReleaseStore(DISK), device_facts()
    before = device.disk_free_bytes(store)
    store.staging_path("a" * 64).write_bytes(bytes(3 << 20))
    assert store.free_bytes() <= before - (3 << 20)
    assert device.disk_free_bytes(store) == before
    """

    run_on_small_disk(tmp_path / "disk", 8 << 20, program.replace("SUPPORT", repr(SUPPORT)))


def test_a_budget_counts_what_is_stored(store: ReleaseStore) -> None:
    device = device_facts(disk_budget_bytes=10 * MIB)
    assert device.disk_free_bytes(store) == 10 * MIB

    store.put(bytes(4 * MIB))
    assert device.disk_free_bytes(store) == 6 * MIB
    store.put(bytes(7 * MIB))
    assert device.disk_free_bytes(store) == 0


def test_of_its_own_budget_and_that_of_its_class_the_tighter_counts(store: ReleaseStore) -> None:
    device = device_facts(disk_budget_bytes=10 * MIB)

    device.class_budgets = ClassBudgets(disk_bytes=4 * MIB)
    assert device.disk_free_bytes(store) == 4 * MIB
    device.class_budgets = ClassBudgets(disk_bytes=40 * MIB)
    assert device.disk_free_bytes(store) == 10 * MIB
    device.disk_budget_bytes = None
    assert device.disk_free_bytes(store) <= 40 * MIB

"""Whether a release has room, before its first byte is fetched."""

from pathlib import Path

import pytest

from mailboat_agent.artifacts.disk_room import RESERVE_BYTES, DiskRoom, require_room
from mailboat_agent.artifacts.release_store import ReleaseStore
from mailboat_schemas.errors import DiskFull

FILE, OTHER = "aa" * 32, "bb" * 32


@pytest.fixture
def store(tmp_path: Path) -> ReleaseStore:
    return ReleaseStore(tmp_path)


def room(**changes: int | None) -> DiskRoom:
    figures: dict[str, int | None] = {"stored": 0, "staged": 0, "free": 10**9, "budget": None}
    return DiskRoom(**(figures | changes))  # type: ignore[arg-type]


def test_a_budget_bounds_what_is_stored_and_staged_together(store: ReleaseStore) -> None:
    store.put(bytes(600))
    store.staging_path(OTHER).write_bytes(bytes(300))
    require_room(store, 1000, {FILE: 100}, coming_bytes=0)
    with pytest.raises(DiskFull, match="disk_budget of 1000, of which 900 are used"):
        require_room(store, 1000, {FILE: 101}, coming_bytes=0)


def test_what_is_staged_of_a_file_has_its_room_already(store: ReleaseStore) -> None:
    store.staging_path(FILE).write_bytes(bytes(900))
    require_room(store, 1000, {FILE: 1000}, coming_bytes=0)


def test_other_downloads_under_way_are_counted(store: ReleaseStore) -> None:
    require_room(store, 1000, {FILE: 500}, coming_bytes=500)
    with pytest.raises(DiskFull):
        require_room(store, 1000, {FILE: 500}, coming_bytes=501)


def test_a_reserve_of_the_disk_is_left_alone(store: ReleaseStore) -> None:
    free = store.free_bytes()
    with pytest.raises(DiskFull, match="in reserve"):
        require_room(store, None, {FILE: free - RESERVE_BYTES // 2}, coming_bytes=0)
    require_room(store, None, {FILE: free // 2}, coming_bytes=0)


def test_a_release_larger_than_the_whole_budget_is_refused_before_it_is_fetched(
    store: ReleaseStore,
) -> None:
    with pytest.raises(DiskFull, match="raise disk_budget"):
        require_room(store, 1000, {FILE: 1001}, coming_bytes=0)
    assert store.staged_bytes_of_all() == 0


def test_with_nothing_lacking_a_full_disk_is_no_hindrance(store: ReleaseStore) -> None:
    require_room(store, 0, {}, coming_bytes=10**15)


def test_nearly_full_is_nine_tenths_of_the_budget_or_of_the_disk() -> None:
    assert not room(stored=899, budget=1000).is_nearly_full
    assert room(stored=901, budget=1000).is_nearly_full
    assert room(stored=1200, budget=1000).is_nearly_full
    assert not room(stored=0, free=10**9).is_nearly_full
    assert room(stored=10**9, free=RESERVE_BYTES + 10**7).is_nearly_full

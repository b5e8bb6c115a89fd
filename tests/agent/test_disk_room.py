"""Whether a release has room, before its first byte is fetched."""

from pathlib import Path

import pytest

from mailboat_agent.artifacts.disk_room import RESERVE_BYTES, DiskRoom, keep_within, require_room
from mailboat_agent.artifacts.giving_way import KeptRelease
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


def keeps(store: ReleaseStore, *sizes: int) -> list[KeptRelease]:
    """Releases of one file each, that may go in this order."""
    found = [
        KeptRelease(
            model="vad", version=f"{n}.0.0", files=frozenset({store.put(bytes([n + 1]) * size)})
        )
        for n, size in enumerate(sizes)
    ]
    store.gives_way.of = lambda: found
    return found


def is_there(store: ReleaseStore, kept: list[KeptRelease]) -> list[bool]:
    return [each.files <= store.digests() for each in kept]


def test_what_is_merely_kept_is_in_the_way_of_no_install(
    store: ReleaseStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    kept = keeps(store, 300, 300)
    store.put(bytes(300))

    require_room(store, 1000, {FILE: 100}, coming_bytes=0)
    assert is_there(store, kept) == [True, True]
    require_room(store, 1000, {FILE: 101}, coming_bytes=0)
    assert is_there(store, kept) == [False, True]
    require_room(store, 1000, {FILE: 700}, coming_bytes=0)
    assert is_there(store, kept) == [False, False]
    assert [each.getMessage() for each in caplog.records] == [
        f"vad {n}.0.0, kept to go back to, gives way to what needs its room: 300 bytes freed."
        for n in range(2)
    ]


def test_for_what_does_not_fit_anyway_nothing_gives_way(store: ReleaseStore) -> None:
    kept = keeps(store, 300)
    store.put(bytes(300))

    with pytest.raises(DiskFull, match="disk_budget of 1000, of which 300 are used"):
        require_room(store, 1000, {FILE: 701}, coming_bytes=0)

    assert is_there(store, kept) == [True]


def test_a_patch_beside_its_outcome_is_room_enough_to_give_way_for(store: ReleaseStore) -> None:
    kept = keeps(store, 300)

    require_room(store, 1000, {FILE: 600}, coming_bytes=0, patch_bytes=401)
    assert is_there(store, kept) == [True]  # there is no room for that one either way
    require_room(store, 1000, {FILE: 600}, coming_bytes=0, patch_bytes=200)
    assert is_there(store, kept) == [False]


def test_a_model_on_its_way_back_keeps_its_releases_and_the_install_waits(
    store: ReleaseStore,
) -> None:
    kept = keeps(store, 300)
    store.gives_way.may_go = lambda model: model != "vad"

    with pytest.raises(DiskFull):
        require_room(store, 1000, {FILE: 800}, coming_bytes=0)

    assert is_there(store, kept) == [True]


def test_a_file_that_two_kept_releases_share_stays_for_the_second(store: ReleaseStore) -> None:
    first, second = keeps(store, 300, 300)
    shared = KeptRelease(model="vad", version="0.0.0", files=first.files | second.files)
    store.gives_way.of = lambda: [shared, second]

    assert store.gives_way.make_room(1) == 300

    assert is_there(store, [first, second]) == [False, True]


def test_a_budget_that_was_lowered_is_kept_to(store: ReleaseStore) -> None:
    kept = keeps(store, 300)
    store.put(bytes(600))

    assert keep_within(store, 900) == 0
    assert keep_within(store, 899) == 300
    assert keep_within(store, 500) == 0  # what is needed stays

    assert is_there(store, kept) == [False]


def test_a_disk_that_others_fill_takes_what_is_merely_kept_first(store: ReleaseStore) -> None:
    kept = keeps(store, 300)
    room = DiskRoom(stored=0, staged=0, free=RESERVE_BYTES + 300, budget=None, gives_way=300)

    assert room.in_the_way(0, evidence=0) == 0
    assert room.in_the_way(100, evidence=0) == 100
    assert room.in_the_way(0, evidence=50) == 50  # which goes after it
    assert DiskRoom.of(store, 1000).used == 0
    assert is_there(store, kept) == [True]


def test_nearly_full_is_nine_tenths_of_the_budget_or_of_the_disk() -> None:
    assert not room(stored=899, budget=1000).is_nearly_full
    assert room(stored=901, budget=1000).is_nearly_full
    assert room(stored=1200, budget=1000).is_nearly_full
    assert not room(stored=0, free=10**9).is_nearly_full
    assert room(stored=10**9, free=RESERVE_BYTES + 10**7).is_nearly_full

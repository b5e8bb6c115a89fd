"""The order of a device's own site on its disk: crashes, damage, wrong clocks, another site."""

import errno
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgpack
import pytest
from tests.faults.injection import KILLED, Fault, Injection, injected
from tests.faults.kill_harness import in_a_child

from mailboat_agent.kept_site_order import FILE_NAME, PAYLOAD_BYTES_MAX, judge, read_kept
from mailboat_agent.ledger import PROVOKED_BURST
from mailboat_agent.site_order_handover import HANDED_NAME, TAKEN_NAME, hand_over
from mailboat_schemas.errors import PayloadTooLarge
from mailboat_schemas.events import EventKind
from mailboat_schemas.site_orders import LASTS_DAYS_MAX, SiteOrderKey, SiteOrderOld
from model_fleet import MODEL
from signed_policies import policy_document
from site_island import NOW, Island
from site_orders import SITE, SiteDesk, site_policy

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)  # of a device without a battery for its clock


@pytest.fixture
def island(tmp_path: Path) -> Island:
    return Island(tmp_path)


def padded(payload: bytes, size_bytes: int) -> bytes:
    """What anybody can make of an order that was signed: the signature holds."""
    content = msgpack.unpackb(payload)
    return bytes(msgpack.packb({**content, "more": b"\0" * size_bytes}))


def test_an_order_that_somebody_made_long_is_not_taken(island: Island) -> None:
    payload = island.desk.signed(5, island.desk.hold())

    with pytest.raises(PayloadTooLarge):
        island.orders.hear(padded(payload, PAYLOAD_BYTES_MAX), NOW)
    island.orders.take(padded(payload, PAYLOAD_BYTES_MAX - len(payload) - 20), NOW)
    island.restart()
    assert island.notes == ["site_held"]


@pytest.mark.slow
def test_a_device_that_dies_at_any_point_takes_what_was_handed_over_and_tells_it_once(
    island: Island,
) -> None:
    island.journal.close()

    def life(at: int) -> tuple[int, list[str]]:
        with injected(injection := Injection(island.data, at, Fault.KILL_BEFORE)):
            island.start()
            begun = len(injection.names)
            island.orders.look(NOW)
        island.journal.close()
        return begun, injection.names

    hand_over(island.data, island.desk.signed(1, island.desk.hold()))
    status, (begun, calls) = in_a_child(lambda: life(-1))
    assert status == 0
    assert {"replace", "fsync", "unlink", "sql"} <= set(calls[begun:])
    for counter, number in enumerate(range(begun, len(calls)), start=2):
        call = calls[number]
        hand_over(island.data, island.desk.signed(counter, island.desk.hold()))
        status, said = in_a_child(lambda number=number: life(number))
        assert status == KILLED, (number, call, said)

        island.start()
        island.orders.look(NOW)
        assert island.notes == ["site_held"]
        assert [*read_kept(island.data).counters.values()] == [counter], (number, call)
        assert len(island.told()) == counter, (number, call)
        assert not (island.data / TAKEN_NAME).exists()
        island.journal.close()


def test_an_order_that_meets_a_bug_ends_nothing_and_is_not_met_again(
    island: Island, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def bug(*_arguments: object, **_more: object) -> None:
        raise RuntimeError("a bug")

    hand_over(island.data, island.desk.signed(5, island.desk.hold()))
    monkeypatch.setattr("mailboat_agent.kept_site_order.open_site_order", bug)
    island.orders.look(NOW)

    assert "met a bug" in caplog.text
    assert not (island.data / TAKEN_NAME).exists()


def test_one_that_is_handed_over_while_another_is_dealt_with_is_taken_after_it(
    island: Island,
) -> None:
    hand_over(island.data, island.desk.signed(5, island.desk.hold()))
    (island.data / HANDED_NAME).rename(island.data / TAKEN_NAME)
    hand_over(island.data, island.desk.signed(6))

    island.orders.look(NOW)
    assert island.notes == ["site_held"]
    island.orders.look(NOW)
    assert island.notes == []
    assert not (island.data / HANDED_NAME).exists()


def test_who_hands_over_the_order_that_stands_is_not_told_that_it_is_old(island: Island) -> None:
    payload = island.desk.signed(5, island.desk.hold())
    island.orders.take(payload, NOW)

    assert judge(payload, island.data, island.device, island.manifest, NOW).order.counter == 5
    older = island.desk.signed(4)
    with pytest.raises(SiteOrderOld):
        judge(older, island.data, island.device, island.manifest, NOW)


def test_a_disk_that_was_full_has_the_order_once_there_is_room(
    island: Island, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: object, **_more: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("mailboat_agent.atomic_file.write_new_durably", full)
        island.orders.take(island.desk.signed(5, island.desk.hold()), NOW)
        assert island.notes == ["site_held"]
        assert not (island.data / FILE_NAME).exists()
    island.orders.look(NOW)

    island.restart()
    assert island.notes == ["site_held"]


def test_a_damaged_order_is_told_of_once(island: Island) -> None:
    island.orders.take(island.desk.signed(5, island.desk.hold()), NOW)
    (island.data / FILE_NAME).write_bytes(b"\0" * 64)

    for _ in range(2):
        island.restart()
        island.orders.look(NOW)
    assert [code for code, _ in island.told(EventKind.STORAGE_DAMAGED)] == ["site-order"]
    # Of the orders that the broker repeats now the newest counts; nobody said an older one.
    assert island.orders.take(island.desk.signed(5, island.desk.hold()), NOW)
    assert island.notes == ["site_held"]


def test_a_start_with_a_clock_far_ahead_does_not_lose_the_order(island: Island) -> None:
    island.orders.take(island.desk.signed(5, island.desk.hold()), NOW)
    island.restart(now=NOW + timedelta(days=4000))
    assert island.device.reported_site_order is None

    island.orders.look(NOW)
    assert island.notes == ["site_held"]


def test_an_order_taken_with_a_clock_of_long_ago_outlives_its_being_set_right(
    island: Island,
) -> None:
    ahead = int((NOW + timedelta(days=400)).timestamp())
    hold = island.desk.hold().model_copy(update={"expires": ahead})
    island.orders.take(island.desk.signed(5, hold, issued=ahead), LONG_AGO)
    assert read_kept(island.data).taken_at == 0
    assert island.device.reported_site_order is not None

    for now, stands in (
        (NOW, True),
        (NOW + timedelta(days=LASTS_DAYS_MAX, seconds=-2), True),
        (NOW + timedelta(days=LASTS_DAYS_MAX, seconds=2), False),
    ):
        island.orders.look(now)
        assert (island.device.reported_site_order is not None) is stands
    assert read_kept(island.data).taken_at == int(NOW.timestamp())


def test_a_policy_that_cannot_be_read_takes_no_order_back(island: Island) -> None:
    island.orders.take(island.desk.signed(5, island.desk.hold()), NOW)

    # Its class's has not come, then its own neither.
    island.hears_policy(policy_document({"days_between": 1}), brought=False)
    island.orders.look(NOW)
    assert island.notes == ["site_held"]
    island.restart()
    assert island.notes == ["site_held"]
    island.hears_policy(site_policy(version="1.1.0"), brought=False)
    island.orders.look(NOW)
    assert island.notes == ["site_held"]

    # Once it is here, and says that the site has no key, it counts: whatever the class's is.
    island.hears_policy(site_policy(version="1.2.0"))
    island.orders.look(NOW)
    assert island.notes == []
    with pytest.raises(SiteOrderKey):
        island.orders.take(island.desk.signed(6, island.desk.hold()), NOW)


def test_an_order_stands_by_the_newest_policy_although_its_role_has_expired(
    island: Island,
) -> None:
    island.hears_policy(site_policy(island.desk, version="1.1.0"), at=NOW - timedelta(days=4000))
    role = island.manifest.view.delegated("policy") if island.manifest.view else None
    assert role is not None
    assert role.is_expired(NOW)

    assert island.orders.take(island.desk.signed(5, island.desk.hold()), NOW)
    island.restart()
    assert island.notes == ["site_held"]


def test_a_key_that_is_named_again_goes_on_where_it_was(island: Island, tmp_path: Path) -> None:
    heir = SiteDesk(tmp_path, "heir")
    held = island.desk.signed(5, island.desk.hold())
    island.orders.take(held, NOW)
    island.orders.take(island.desk.signed(6), NOW)
    island.hears_policy(site_policy(heir, version="1.1.0"))
    island.orders.take(heir.signed(1, heir.hold(MODEL)), NOW)

    island.hears_policy(site_policy(island.desk, heir, version="1.2.0"))
    island.orders.hear(held, NOW)
    assert island.notes == [f"site_held:{MODEL}"]
    with pytest.raises(SiteOrderOld):
        island.orders.take(heir.signed(6), NOW)
    assert island.orders.take(heir.signed(7), NOW)


def test_a_device_that_moves_takes_the_order_of_where_it_is(island: Island) -> None:
    """Both sites have the same harbour master, and the order there is older than the one here."""
    island.hears_policy(site_policy(island.desk, version="1.0.0", target="depot"))
    island.orders.take(island.desk.signed(9, island.desk.hold()), NOW)
    island.restart(site="depot")
    assert island.notes == []

    there = island.desk.signed(3, island.desk.hold(MODEL), site="depot")
    assert island.orders.take(there, NOW)
    assert island.notes == [f"site_held:{MODEL}"]
    island.restart(site=SITE)
    assert island.notes == []
    with pytest.raises(SiteOrderOld):
        island.orders.take(island.desk.signed(8), NOW)


def test_whoever_orders_without_end_fills_no_journal(island: Island) -> None:
    for counter in range(1, PROVOKED_BURST + 4):
        island.orders.take(island.desk.signed(counter), NOW)

    assert len(island.told()) == PROVOKED_BURST

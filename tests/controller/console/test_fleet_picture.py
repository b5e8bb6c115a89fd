"""The fleet in memory: read once, then what changed."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import insert, update

from console_fleet import DIGEST, enrol_fleet, enrol_one, report
from enrolled_fleet import lay_database
from mailboat_controller.console import fleet_picture
from mailboat_controller.console.fleet_picture import FleetPicture, State
from mailboat_controller.presence import Reach
from mailboat_controller.sites.policy import Policy
from mailboat_controller.store import audit, fleet_columns, overrides, sites, tables
from mailboat_controller.store.engine import Store
from mailboat_controller.store.instants import to_ms

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
NO_TIME = timedelta()


class Ways:
    now = Reach()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    lay_database(tmp_path)
    store = Store(f"sqlite:///{tmp_path / 'mailboat.db'}")
    enrol_fleet(store, 40, NOON)
    return store


@pytest.fixture
def picture(store: Store) -> FleetPicture:
    return FleetPicture(store, lambda: Ways.now)


def state_of(picture: FleetPicture, device: str, now: datetime) -> State:
    cells = picture.look(now, age_max=NO_TIME).cells.values()
    return next(cell.state for cell in cells if cell.subject.device == device)


def test_nobody_heard_of_is_unknown_and_not_offline(picture: FleetPicture) -> None:
    assert state_of(picture, "dev-000011", NOON) is State.UNKNOWN
    assert state_of(picture, "dev-000007", NOON) is State.OFFLINE


def test_nothing_new_is_the_same_revision(picture: FleetPicture) -> None:
    first = picture.look(NOON, age_max=NO_TIME)
    again = picture.look(NOON + timedelta(seconds=5), age_max=NO_TIME)

    assert (again.revision, again.shape) == (first.revision, first.shape)
    assert again.read_at > first.read_at


def test_one_that_went_offline_is_the_one_change(store: Store, picture: FleetPicture) -> None:
    first = picture.look(NOON, age_max=NO_TIME)
    c = tables.devices.c
    with store.transaction() as tx:
        gone = update(tables.devices).where(c.device == "dev-000001")
        tx.execute(gone.values(online=False, presence_at=to_ms(NOON)))

    after = picture.look(NOON + timedelta(seconds=5), age_max=NO_TIME)
    ((number, state),) = after.changes_since(first)
    assert (after.cells[number].subject.device, state) == ("dev-000001", State.OFFLINE)
    assert after.shape == first.shape
    assert after.revision > first.revision


def test_a_new_device_changes_the_shape(store: Store, picture: FleetPicture) -> None:
    first = picture.look(NOON, age_max=NO_TIME)
    enrol_one(store, "late", NOON)

    after = picture.look(NOON + timedelta(seconds=5), age_max=NO_TIME)
    assert after.shape > first.shape
    assert len(after.cells) == 41


def test_while_the_broker_is_away_nobody_is_online_or_offline(picture: FleetPicture) -> None:
    picture.look(NOON, age_max=NO_TIME)
    Ways.now = Reach(away_since=NOON)
    try:
        cells = picture.look(NOON, age_max=NO_TIME).cells.values()
        assert {cell.state for cell in cells} == {State.UNKNOWN, State.REVOKED}
        assert "is away" in next(iter(cells)).because
    finally:
        Ways.now = Reach()
    assert state_of(picture, "dev-000001", NOON) is State.ONLINE


def test_a_failure_is_shown_until_its_rollout_is_taken_back(
    store: Store, picture: FleetPicture
) -> None:
    rollout = {
        "name": "vad-1-3-0",
        "model": "vad",
        "version": "1.3.0",
        "digest": DIGEST,
        "plan": {},
        "phase": "halted",
        "wave": 0,
        "opened": {},
        "because": "",
        "retry_epoch": 0,
        "created_at": to_ms(NOON),
        "updated_at": to_ms(NOON),
    }
    verdict = {
        "digest": DIGEST,
        "device": "dev-000002",
        "retry_epoch": 0,
        "outcome": "failed",
        "code": "golden",
        "because": "3 of 5 golden samples differ",
        "updated_at": to_ms(NOON),
    }
    picture.look(NOON, age_max=NO_TIME)
    with store.transaction() as tx:
        tx.execute(insert(tables.rollouts).values(rollout))
        tx.execute(insert(tables.outcomes).values(verdict))
    assert state_of(picture, "dev-000002", NOON) is State.FAILED

    with store.transaction() as tx:
        tx.execute(update(tables.rollouts).values(phase="aborted"))
    assert state_of(picture, "dev-000002", NOON) is State.ONLINE


def test_a_hold_is_seen_by_selectors_at_the_next_look(store: Store, picture: FleetPicture) -> None:
    picture.look(NOON, age_max=NO_TIME)
    with store.transaction() as tx:
        overrides.set_label(tx, "dev-000003", "spare", "yes")
        audit.append(tx, at=NOON, actor="a:b", action="device.label", subject="dev-000003")

    cells = picture.look(NOON, age_max=NO_TIME).cells.values()
    noted = [cell.subject.device for cell in cells if cell.subject.values("spare")]
    assert noted == ["dev-000003"]


def test_more_devices_than_are_drawn_are_said_to_be_left_out(
    picture: FleetPicture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_picture, "DEVICES_MAX", 30)

    found = picture.look(NOON, age_max=NO_TIME)
    assert (len(found.cells), found.left_out) == (30, 10)


def test_what_nobody_looks_at_is_let_go(
    picture: FleetPicture, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture.look(NOON, age_max=NO_TIME)
    picture.rest()
    assert picture.held is not None

    monkeypatch.setattr(fleet_picture, "LOOKED_AT_SECONDS", 0.0)
    picture.rest()
    assert picture.held is None


def test_who_was_merely_heard_of_is_not_read_again(
    store: Store, picture: FleetPicture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands a second are, in a large fleet; a look must not take longer the longer it takes."""
    monkeypatch.setattr(fleet_picture, "TURN_ROWS", 0)
    first = picture.look(NOON, age_max=NO_TIME)
    later = NOON + timedelta(seconds=30)
    c = tables.devices.c
    with store.transaction() as tx:
        heard = update(tables.devices).where(c.device == "dev-000001")
        tx.execute(heard.values(last_seen_at=to_ms(later), report=report("vad", "9.9.9")))

    after = picture.look(later, age_max=NO_TIME)
    cell = next(each for each in after.cells.values() if each.subject.device == "dev-000001")
    assert cell.seen_at == later
    assert "vad@9.9.9" not in cell.subject.running
    assert after.revision == first.revision


def test_what_nobody_told_is_seen_in_its_turn(store: Store, picture: FleetPicture) -> None:
    picture.look(NOON, age_max=NO_TIME)
    c = tables.devices.c
    with store.transaction() as tx:
        changed = update(tables.devices).where(c.device == "dev-000001")
        tx.execute(changed.values(report=report("vad", "9.9.9")))

    cells = picture.look(NOON, age_max=NO_TIME).cells.values()
    running = {cell.subject.device: cell.subject.running for cell in cells}
    assert "vad@9.9.9" in running["dev-000001"]


def test_an_event_of_a_device_has_its_row_read_again(
    store: Store, picture: FleetPicture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_picture, "TURN_ROWS", 0)
    picture.look(NOON, age_max=NO_TIME)
    c = tables.devices.c
    event = {
        "device": "dev-000001",
        "epoch": "0" * 16,
        "sequence": 1,
        "event_id": "x",
        "kind": "soak_started",
        "retry_epoch": 0,
        "content": {},
        "observed_at": 0,
        "received_at": to_ms(NOON),
    }
    with store.transaction() as tx:
        tx.execute(insert(tables.events).values(event))
        soaks = update(tables.devices).where(c.device == "dev-000001")
        tx.execute(soaks.values(report=report("vad", "1.3.0", "soak")))

    assert state_of(picture, "dev-000001", NOON) is State.IN_PROGRESS


def test_a_site_that_is_cut_off_has_its_own_devices_read_again_and_no_others(
    store: Store, picture: FleetPicture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two hundred sites one comes or goes all the time; the fleet takes seconds to read."""
    monkeypatch.setattr(fleet_picture, "TURN_ROWS", 0)
    enrol_fleet(store, 10, NOON, prefix="at", sites=2)
    place = {"policy": Policy.ERROR, "expected_until": None, "windows": (), "labels": {}}
    broker = {"broker_host": "", "broker_port": 8883, "cache_url": ""}
    with store.transaction() as tx:
        sites.put(tx, "site-000", at=NOON, **place, **broker)
        sites.note_link(tx, "site-000", connected=True, retained=False, at=NOON)
    assert state_of(picture, "at-000000", NOON) is State.ONLINE

    later, asked = NOON + timedelta(minutes=5), []
    read = fleet_columns.rows_of
    monkeypatch.setattr(
        fleet_columns, "rows_of", lambda tx, numbers: asked.append(numbers) or read(tx, numbers)
    )
    with store.transaction() as tx:
        sites.note_link(tx, "site-000", connected=False, retained=False, at=later)
    after = picture.look(later, age_max=NO_TIME).cells.values()

    states = {cell.subject.device: cell.state for cell in after if cell.subject.site != "-"}
    cut = {name for name, state in states.items() if state is State.UNKNOWN}
    assert cut == {f"at-{n:06d}" for n in (0, 2, 4, 6, 8)}
    assert [len(numbers) for numbers in asked] == [5]

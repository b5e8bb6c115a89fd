"""The fleet in memory: read once, then what changed."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import insert, update

from console_fleet import DIGEST, enrol_fleet, enrol_one, report
from enrolled_fleet import lay_database
from mailboat_controller.console import fleet_picture
from mailboat_controller.console.fleet_news import REPORT_LATER
from mailboat_controller.console.fleet_picture import FleetPicture, State
from mailboat_controller.presence import Reach
from mailboat_controller.sites.policy import Policy
from mailboat_controller.store import (
    audit,
    device_signs,
    fleet_columns,
    overrides,
    sites,
    tables,
)
from mailboat_controller.store.engine import Store
from mailboat_controller.store.instants import to_ms
from mailboat_schemas.errors import ServerUnavailable

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


def event_of(device: str) -> dict[str, object]:
    return {
        "device": device,
        "epoch": "0" * 16,
        "sequence": 1,
        "event_id": device,
        "kind": "soak_started",
        "retry_epoch": 0,
        "content": {},
        "observed_at": 0,
        "received_at": to_ms(NOON),
    }


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


def test_a_glance_sees_who_came_and_went_and_who_enrolled(
    store: Store, picture: FleetPicture, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, later = picture.look(NOON, age_max=NO_TIME), NOON + timedelta(seconds=2)
    enrol_one(store, "late", later)
    with store.transaction() as tx:
        device_signs.set_presence(tx, "dev-000001", session=2, online=False, at=later)

    monkeypatch.setattr(fleet_columns, "signs", None)  # nobody reads the whole registry
    after = picture.glance(later)

    changed = {
        after.cells[number].subject.device: state for number, state in after.changes_since(first)
    }
    assert changed == {"dev-000001": State.OFFLINE, "late": State.ONLINE}
    assert picture.glance(later + timedelta(seconds=2)).revision == after.revision


def test_a_glance_sees_who_was_revoked_and_who_told_an_event(
    store: Store, picture: FleetPicture
) -> None:
    picture.look(NOON, age_max=NO_TIME)
    c = tables.devices.c
    with store.transaction() as tx:
        tx.execute(update(tables.devices).where(c.device == "dev-000002").values(revoked=True))
        audit.append(tx, at=NOON, actor="a:b", action="device.revoke", subject="dev-000002")
        tx.execute(insert(tables.events).values(event_of("dev-000001")))
        soaks = update(tables.devices).where(c.device == "dev-000001")
        tx.execute(soaks.values(report=report("vad", "1.3.0", "soak")))

    cells = picture.glance(NOON).cells.values()
    states = {cell.subject.device: cell.state for cell in cells}
    assert states["dev-000001"] is State.IN_PROGRESS
    assert states["dev-000002"] is State.REVOKED


def test_a_report_that_comes_after_its_event_is_seen(
    store: Store, picture: FleetPicture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_picture, "TURN_ROWS", 0)
    picture.look(NOON, age_max=NO_TIME)
    with store.transaction() as tx:
        tx.execute(insert(tables.events).values(event_of("dev-000001")))
    assert state_of(picture, "dev-000001", NOON) is State.ONLINE
    with store.transaction() as tx:
        soaks = update(tables.devices).where(tables.devices.c.device == "dev-000001")
        tx.execute(soaks.values(report=report("vad", "1.3.0", "soak")))

    picture.glance(NOON + REPORT_LATER - timedelta(seconds=1))
    cells = picture.glance(NOON + REPORT_LATER).cells.values()
    assert [c.state for c in cells if c.subject.device == "dev-000001"] == [State.IN_PROGRESS]


def test_more_events_than_one_look_reads_are_read_by_the_next(
    store: Store, picture: FleetPicture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_picture, "TURN_ROWS", 0)
    monkeypatch.setattr(fleet_columns, "EVENTS_READ_MAX", 2)
    picture.look(NOON, age_max=NO_TIME)
    told = [f"dev-{n:06d}" for n in (1, 2, 3, 4, 5)]
    with store.transaction() as tx:
        tx.execute(insert(tables.events), [event_of(device) for device in told])
        soaks = update(tables.devices).where(tables.devices.c.device.in_(told))
        tx.execute(soaks.values(report=report("vad", "1.3.0", "soak")))

    moving = []
    for _ in range(3):
        cells = picture.look(NOON, age_max=NO_TIME).cells.values()
        moving.append(
            [c.subject.device in told and c.state is State.IN_PROGRESS for c in cells].count(True)
        )
    assert moving == [2, 4, 5]


def test_more_changes_than_a_glance_is_good_for_are_looked_at(
    store: Store, picture: FleetPicture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_picture, "GLANCED_MAX", 3)
    picture.look(NOON, age_max=NO_TIME)
    with store.transaction() as tx:
        gone = update(tables.devices).where(tables.devices.c.online.is_(True))
        tx.execute(gone.values(online=False, presence_at=to_ms(NOON)))

    cells = picture.glance(NOON).cells.values()
    assert State.ONLINE not in {cell.state for cell in cells}


def test_what_could_not_be_read_is_read_at_the_next_look(
    store: Store, picture: FleetPicture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_picture, "TURN_ROWS", 0)
    picture.look(NOON, age_max=NO_TIME)
    with store.transaction() as tx:
        tx.execute(insert(tables.events).values(event_of("dev-000001")))
        soaks = update(tables.devices).where(tables.devices.c.device == "dev-000001")
        tx.execute(soaks.values(report=report("vad", "1.3.0", "soak")))

    def busy(*_: object) -> None:
        raise ServerUnavailable("busy", next_step="wait")

    with monkeypatch.context() as patch:
        patch.setattr(fleet_columns, "rows_of", busy)
        with pytest.raises(ServerUnavailable):
            picture.glance(NOON)
    cells = picture.glance(NOON).cells.values()
    assert [c.state for c in cells if c.subject.device == "dev-000001"] == [State.IN_PROGRESS]


def test_a_broker_that_goes_and_comes_has_no_row_read(
    picture: FleetPicture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a large fleet that takes seconds, at the moment when somebody looks."""
    monkeypatch.setattr(fleet_picture, "TURN_ROWS", 0)
    before = picture.look(NOON, age_max=NO_TIME)
    monkeypatch.setattr(fleet_columns, "rows", None)
    asked = []
    monkeypatch.setattr(fleet_columns, "rows_of", lambda _tx, numbers: asked.extend(numbers) or [])
    monkeypatch.setattr(Ways, "now", Reach(away_since=NOON))
    away = picture.glance(NOON)
    monkeypatch.setattr(Ways, "now", Reach())
    after = picture.glance(NOON)

    assert {cell.state for cell in away.cells.values()} == {State.UNKNOWN, State.REVOKED}
    assert asked == []
    # As if every row had been read again.
    assert after.cells == before.cells
    assert after.revision > away.revision > before.revision


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
    with store.transaction() as tx:
        tx.execute(insert(tables.events).values(event_of("dev-000001")))
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

"""Messages of a batch are read, checked and written together, and come out as if one by one."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event as sqlalchemy_event
from sqlalchemy import select, text

from enrolled_fleet import NOON, EnrolledDevice, EnrolledFleet
from mailboat_controller.ingest import pending_rows
from mailboat_controller.mqtt.incoming import Incoming
from mailboat_controller.store import events, quarantine, tables
from mailboat_schemas.codec import decode, encode
from mailboat_schemas.envelope import Envelope
from mailboat_schemas.events import EventKind

KINDS = (EventKind.TRIAL_STARTED, EventKind.COMMITTED, EventKind.RETURNED, EventKind.ROLLED_BACK)


@pytest.fixture
def fleet(tmp_path: Path, database_url: str) -> Iterator[EnrolledFleet]:
    fleet = EnrolledFleet(tmp_path / "one", database_url)
    yield fleet
    fleet.store.close()


def about_a_release(device: EnrolledDevice, first: int, count: int) -> Incoming:
    """Consecutive events, the same ones whenever they are asked for."""
    return device.events(
        [
            device.event(
                n,
                KINDS[n * 7 % len(KINDS)],
                model="vad",
                version=f"1.0.{n // 5}",
                digest=f"{n // 5:064x}",
                code=f"C-{n % 3}",
                because=f"because {n}",
            )
            for n in range(first, first + count)
        ]
    )


def forged(message: Incoming) -> Incoming:
    envelope = decode(Envelope, message.payload)
    changed = envelope.model_copy(update={"payload": envelope.payload + b"\0"})
    return Incoming(topic=message.topic, payload=encode(changed))


def anything(devices: list[EnrolledDevice], rng: random.Random) -> Incoming:
    device = rng.choice(devices)
    session = rng.randrange(4)
    match rng.randrange(10):
        case 0:
            return device.hello(rng.randint(1, 9), 40)
        case 1:
            return device.report(session=session, observed_at=rng.randrange(9), retain=session == 2)
        case 2:
            return device.presence(session, online=rng.random() > 0.5)
        case 3:
            return device.telemetry(rng.randint(1, 3), 5)
        case 4:
            return forged(about_a_release(device, 1, 2))
        case 5:
            return Incoming(topic=device.topic(device_channel(rng)), payload=b"\xc1")
        case _:
            return about_a_release(device, rng.randint(1, 20), rng.randint(1, 9))


def device_channel(rng: random.Random) -> Any:
    from mailboat_schemas.topics import Channel

    return rng.choice([Channel.EVENTS, Channel.HELLO, Channel.REPORT])


def everything(fleet: EnrolledFleet) -> dict[str, list[Any]]:
    """What is in the database, without the numbers that only count rows."""
    found: dict[str, list[Any]] = {}
    with fleet.store.read() as tx:
        for table in (
            tables.events,
            tables.telemetry,
            tables.outcomes,
            tables.watermarks,
            tables.devices,
            tables.quarantine,
            tables.audit,
        ):
            columns = [c for c in table.c if c.name not in {"id", "public_key", "hash"}]
            columns = [c for c in columns if c.name != "previous_hash"]
            rows = [tuple(row) for row in tx.execute(select(*columns))]
            found[table.name] = sorted(rows, key=repr)
    return found


@pytest.mark.parametrize("seed", range(2))
def test_a_batch_comes_out_as_its_messages_one_by_one(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    together, apart = EnrolledFleet(tmp_path / "together"), EnrolledFleet(tmp_path / "apart")
    devices = [together.enrol(f"dev-{n}") for n in range(4)]
    path = Path(apart.url.removeprefix("sqlite:///"))
    together.store.close()  # all of it is in the file now
    path.write_bytes(Path(together.url.removeprefix("sqlite:///")).read_bytes())
    messages = [anything(devices, rng) for _ in range(40)]

    for first in range(0, len(messages), 20):
        together.take(*messages[first : first + 20])
    for message in messages:
        apart.take(message)

    found = everything(together)
    assert found == everything(apart), f"seed {seed}"
    assert found["events"], "nothing was taken at all"
    together.store.close()
    apart.store.close()


def test_a_batch_larger_than_what_is_held_is_written_in_parts(
    fleet: EnrolledFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pending_rows, "ROWS_MAX", 7)
    device = fleet.enrol("dev-1")
    batches = [about_a_release(device, n, 5) for n in range(1, 50, 5)]

    fleet.take(*batches, *batches)  # and again: what was written is looked at

    with fleet.store.read() as tx:
        rows = events.page(tx, limit=1000)
        assert [row.sequence for row in rows] == list(range(1, 51))
        assert quarantine.count(tx) == 0


def test_a_row_that_the_database_refuses_spoils_only_its_own_message(tmp_path: Path) -> None:
    fleet = EnrolledFleet(tmp_path)
    devices = [fleet.enrol(f"dev-{n}") for n in range(3)]
    with fleet.store.transaction() as tx:
        tx.execute(
            text(
                "CREATE TRIGGER refuse BEFORE INSERT ON events WHEN NEW.device = 'dev-1' "
                "BEGIN SELECT RAISE(ABORT, 'no'); END"
            )
        )

    result = fleet.take(*(about_a_release(device, 1, 3) for device in devices))

    assert dict(result.quarantined) == {"E-PAYLOAD-MALFORMED": 1}
    acked = {ack.device: ack.events_acked for _, ack in result.acks}
    assert acked == {"dev-0": 3, "dev-2": 3}
    with fleet.store.read() as tx:
        stored = {row.device for row in events.page(tx, limit=100)}
        outcomes = set(tx.execute(select(tables.outcomes.c.device)).scalars())
    assert stored == outcomes == {"dev-0", "dev-2"}
    fleet.store.close()


def test_every_forgery_is_found_however_many_are_checked_at_once(fleet: EnrolledFleet) -> None:
    devices = [fleet.enrol(f"dev-{n}") for n in range(60)]
    messages = [device.numbered(1, 1) for device in devices]
    wrong = set(range(0, 60, 7))

    result = fleet.take(*(forged(each) if n in wrong else each for n, each in enumerate(messages)))

    assert result.quarantined == {"E-SIGNATURE": len(wrong)}
    acked = {ack.device for _, ack in result.acks if ack.events_acked == 1}
    assert acked == {f"dev-{n}" for n in range(60) if n not in wrong}


def test_the_statements_of_a_batch_do_not_grow_with_its_messages(tmp_path: Path) -> None:
    fleet = EnrolledFleet(tmp_path)
    devices = [fleet.enrol(f"dev-{n}") for n in range(40)]
    statements: list[str] = []
    sqlalchemy_event.listen(
        fleet.store._engine,
        "before_cursor_execute",
        lambda _c, _cursor, statement, *_: statements.append(statement),
    )

    def needed(first: int, some: list[EnrolledDevice]) -> int:
        messages = [about_a_release(device, first, 2) for device in some]
        statements.clear()
        fleet.take(*messages, now=NOON)
        return len(statements)

    few = needed(1, devices[:2])
    assert needed(1, devices[2:]) == few
    assert needed(3, devices) <= few
    fleet.store.close()


def test_what_came_in_the_same_batch_is_known_to_what_follows(fleet: EnrolledFleet) -> None:
    one, two = fleet.enrol("dev-1"), fleet.enrol("dev-2")
    before = about_a_release(two, 1, 3)
    two.epoch = "b" * 16  # it lost its journal, and tells again what its state implies

    result = fleet.take(
        one.numbered(1, 3),
        one.events([one.event(2, EventKind.DEGRADED)]),  # another event under a number it has
        before,
        about_a_release(two, 1, 4),
    )

    assert result.quarantined == {"E-DEVICE-DOUBLED": 1}
    with fleet.store.read() as tx:
        rows = events.page(tx, "dev-2", limit=100)
    assert [(row.epoch, row.sequence) for row in rows] == [
        *(("a" * 16, n) for n in (1, 2, 3)),
        ("b" * 16, 4),
    ]

"""Who leads, who writes the chain, and who may write beside whom."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from enrolled_fleet import NOON, EnrolledFleet
from mailboat_controller.ingest.batch_reading import reread
from mailboat_controller.rollout.members import Outcome
from mailboat_controller.store import audit, deliveries, devices, events, outcomes
from mailboat_controller.store.engine import Store
from mailboat_controller.store.events import UnreadRow
from mailboat_controller.store.locks import LEADER, LockLost, partition_lock
from mailboat_schemas.deltas import DeliveryOutcome
from mailboat_schemas.errors import ServerUnavailable
from mailboat_schemas.events import EventKind
from postgres_server import PostgresServer

SECONDS = 60


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    store = Store(database_url)
    yield store
    store.close()


def until(condition: Any) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "this did not happen in time"
        time.sleep(0.02)


def test_one_leads_and_the_next_when_it_lets_go(database_url: str, store: Store) -> None:
    other = Store(database_url)
    held = store.try_hold(LEADER)
    assert held is not None
    held.check()

    assert other.try_hold(LEADER) is None
    held.release()

    taken = other.try_hold(LEADER)
    assert taken is not None
    taken.release()
    other.close()


def test_each_partition_has_a_lock_of_its_own(store: Store) -> None:
    held = [store.try_hold(name) for name in (LEADER, partition_lock(0), partition_lock(1))]

    assert None not in held
    for each in held:
        assert each is not None
        each.release()


_LEADS = """
import signal, sys
from mailboat_controller.store.engine import Store
from mailboat_controller.store.locks import LEADER
held = Store(sys.argv[1]).try_hold(LEADER)
print(held is not None, flush=True)
signal.pause()
"""


@pytest.mark.slow
def test_a_leader_that_is_killed_holds_nothing_back(database_url: str, store: Store) -> None:
    # Not of multiprocessing: its resource tracker would stay with whatever tests come later.
    command = [sys.executable, "-c", _LEADS, database_url]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"True\n"
            assert store.try_hold(LEADER) is None
        finally:
            process.kill()

    taken: list[Any] = []
    until(lambda: taken.append(store.try_hold(LEADER)) or taken[-1] is not None)
    taken[-1].release()


@pytest.mark.slow
def test_who_loses_the_connection_is_told_that_the_lock_is_gone(postgres: PostgresServer) -> None:
    store = Store(postgres.database("migrated"))
    held = store.try_hold(LEADER)
    assert held is not None
    postgres.sql(
        "postgres",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
        "AND usename = 'mailboat' AND backend_type = 'client backend'",
    )

    for _ in range(2):  # whoever asks again does not get another connection that holds nothing
        with pytest.raises(LockLost, match="leader"):
            held.check()
    held.release()
    store.close()


@pytest.mark.slow
def test_a_session_that_is_not_the_one_that_took_the_lock_is_noticed(
    postgres: PostgresServer,
) -> None:
    """A pooler gave our connection another session of the server, without a word."""
    store = Store(postgres.database("migrated"))
    held = store.try_hold(partition_lock(3))
    assert held is not None
    assert held._connection is not None
    held.check()
    held._connection.execute(text("SELECT pg_advisory_unlock_all()"))

    with pytest.raises(LockLost, match="pooler"):
        held.check()
    held.release()
    store.close()


def test_the_audit_chain_holds_whoever_writes_to_it(store: Store) -> None:
    def write(transaction: Any, name: str) -> None:
        for _ in range(4):
            with transaction() as tx:
                audit.append(tx, at=NOON, actor="controller", action="a.b", subject=name)

    threads = [
        threading.Thread(target=write, args=(kind, f"n{n}"))
        for n, kind in enumerate([store.transaction, store.device_transaction] * 2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    with store.read() as tx:
        assert audit.head(tx)[0] == 16
        assert audit.verify(tx) is None


@pytest.mark.slow
class TestOnPostgres:
    """What SQLite's one writer makes impossible."""

    @pytest.fixture
    def fleet(self, tmp_path: Path, postgres: PostgresServer) -> Iterator[EnrolledFleet]:
        fleet = EnrolledFleet(tmp_path, postgres.database("migrated"))
        yield fleet
        fleet.store.close()

    def test_a_writer_that_waited_sees_what_the_one_before_it_wrote(
        self, fleet: EnrolledFleet
    ) -> None:
        def enrol(n: int) -> None:
            with fleet.store.transaction() as tx:
                held = tx.execute(text("SELECT count(*) FROM quarantine")).scalar_one()
                tx.execute(
                    text(
                        "INSERT INTO quarantine (topic, code, problem, payload, received_at) "
                        "VALUES (:n, 'c', 'p', '', 0)"
                    ),
                    {"n": str(held)},
                )

        other = Store(fleet.url)  # as another process: it does not share the thread lock
        fleet_store, fleet.store = fleet.store, other
        threads = [threading.Thread(target=enrol, args=(n,)) for n in range(6)]
        for number, thread in enumerate(threads):
            fleet.store = other if number % 2 else fleet_store
            thread.start()
        for thread in threads:
            thread.join()
        fleet.store = fleet_store
        other.close()

        with fleet.store.read() as tx:
            topics = tx.execute(text("SELECT topic FROM quarantine")).scalars().all()
        assert sorted(topics) == [str(n) for n in range(6)]

    def test_ingest_does_not_wait_for_a_decision_that_takes_long(
        self, fleet: EnrolledFleet
    ) -> None:
        device = fleet.enrol("dev-1")
        with fleet.store.transaction() as tx:
            tx.execute(text("SELECT count(*) FROM outcomes")).scalar_one()

            assert fleet.take(device.numbered(1, 3)).events == {"trust_stale": 3}

    def test_two_that_take_the_same_device_wait_for_each_other(self, fleet: EnrolledFleet) -> None:
        """A take-over: the process before has not noticed yet that it is none."""
        device = fleet.enrol("dev-1")
        done = threading.Event()

        def second() -> None:
            fleet.take(device.numbered(1, 5))
            done.set()

        thread = threading.Thread(target=second)
        with fleet.store.device_transaction() as tx:
            devices.lock(tx, {"dev-1"})
            thread.start()
            assert not done.wait(0.3)
            from mailboat_controller.ingest.batch import ingest

            ingest(tx, [device.numbered(1, 3)], fleet="demo", now=NOON)
        thread.join(SECONDS)

        with fleet.store.read() as tx:
            stored = tx.execute(text("SELECT sequence FROM events ORDER BY id")).scalars().all()
        assert stored == [1, 2, 3, 4, 5]

    def test_what_two_add_to_is_added_by_both(self, fleet: EnrolledFleet) -> None:
        def add() -> None:
            for _ in range(10):
                with fleet.store.device_transaction() as tx:
                    deliveries._add(tx, "d" * 64, "kiosk-x86", DeliveryOutcome.FULL, [10], 100)

        threads = [threading.Thread(target=add) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        with fleet.store.read() as tx:
            (total,) = deliveries.totals(tx)
        assert (total.count, total.fetched_bytes) == (30, 300)

    def test_what_is_read_again_at_a_start_waits_for_who_takes_the_device_in(
        self, fleet: EnrolledFleet
    ) -> None:
        """Ingest processes go on while a newer `mailboat serve` starts."""
        device = fleet.enrol("dev-1")
        told = device.event(1, EventKind.COMMITTED, digest="d" * 64, model="vad", version="1.0.0")
        kept = UnreadRow(sequence=1, event_id="", content=told.model_dump(), problem="new")
        with fleet.store.device_transaction() as tx:
            events.append(tx, "dev-1", device.epoch, [kept], NOON)
        read: list[int] = []

        def again() -> None:
            with fleet.store.transaction() as tx:
                read.append(reread(tx, NOON))

        thread = threading.Thread(target=again)
        with fleet.store.device_transaction() as tx:
            devices.lock(tx, {"dev-1"})
            outcomes.fold(tx, "dev-1", [told], NOON)
            thread.start()
            thread.join(0.3)
            assert read == []
        thread.join(SECONDS)

        assert read == [1]
        with fleet.store.read() as tx:
            assert [row.outcome for row in outcomes.of_release(tx, "d" * 64)] == [Outcome.OK]

    def test_a_server_that_went_away_is_a_passing_trouble(self, postgres: PostgresServer) -> None:
        store = Store(postgres.database("migrated").replace(str(postgres.directory), "/nowhere"))

        with pytest.raises(ServerUnavailable, match="does not answer"):
            store.ping()
        store.close()

    def test_two_that_block_each_other_are_told_to_try_again(self, fleet: EnrolledFleet) -> None:
        fleet.enrol("dev-1")
        fleet.enrol("dev-2")
        first_has, second_has = threading.Event(), threading.Event()
        ends: list[str] = []

        def take(first: str, second: str, mine: threading.Event, other: threading.Event) -> None:
            try:
                with fleet.store.device_transaction() as tx:
                    devices.lock(tx, {first})
                    mine.set()
                    assert other.wait(SECONDS)
                    devices.lock(tx, {second})
                ends.append("done")
            except ServerUnavailable:
                ends.append("again")

        threads = [
            threading.Thread(target=take, args=("dev-1", "dev-2", first_has, second_has)),
            threading.Thread(target=take, args=("dev-2", "dev-1", second_has, first_has)),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS)

        assert sorted(ends) == ["again", "done"]

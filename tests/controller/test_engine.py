import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url, text

from mailboat_controller.store import classes, engine
from mailboat_controller.store.engine import DatabaseUnusable, Store
from mailboat_schemas.errors import ConfigurationInvalid, ServerUnavailable
from postgres_server import PostgresServer


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    store = Store(database_url)
    yield store
    store.close()


def count(store: Store) -> int:
    with store.read() as tx:
        return int(tx.execute(text("SELECT count(*) FROM quarantine")).scalar_one())


ADD = text(
    "INSERT INTO quarantine (topic, code, problem, payload, received_at) VALUES ('t','c','p','',0)"
)


def test_a_database_file_is_made_with_the_directories_above_it(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'deep' / 'mailboat.db'}")
    store.migrate()

    assert count(store) == 0
    store.close()


def test_an_acknowledged_commit_survives_a_power_cut_because_the_database_syncs(
    store: Store,
) -> None:
    with store.transaction() as tx:
        if not store.is_sqlite:
            assert tx.execute(text("SHOW synchronous_commit")).scalar_one() == "on"
            return
        assert tx.execute(text("PRAGMA synchronous")).scalar_one() == 2
        assert tx.execute(text("PRAGMA journal_mode")).scalar_one() == "wal"
        assert tx.execute(text("PRAGMA foreign_keys")).scalar_one() == 1


def test_migrating_twice_changes_nothing(store: Store) -> None:
    store.migrate()

    with store.read() as tx:
        assert classes.names(tx) == ()


def test_a_transaction_that_raises_leaves_nothing(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), store.transaction() as tx:
        tx.execute(ADD).rowcount / 0

    assert count(store) == 0


def test_writers_on_many_threads_take_turns_and_lose_no_update(store: Store) -> None:
    def add() -> None:
        for _ in range(5):
            with store.transaction() as tx:
                # Read, then write: with a deferred transaction this would fail as locked.
                tx.execute(text("SELECT count(*) FROM quarantine")).scalar_one()
                tx.execute(ADD)

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert count(store) == 20


def test_a_reader_does_not_wait_for_the_writer_and_sees_nothing_of_it(store: Store) -> None:
    with store.transaction() as tx:
        tx.execute(ADD)

        assert count(store) == 0

    assert count(store) == 1


def test_a_read_is_one_view_even_when_a_writer_commits_meanwhile(store: Store) -> None:
    with store.read() as tx:
        before = tx.execute(text("SELECT count(*) FROM quarantine")).scalar_one()
        with store.transaction() as other:
            other.execute(ADD)

        assert tx.execute(text("SELECT count(*) FROM quarantine")).scalar_one() == before


def test_another_process_that_holds_the_database_for_too_long_is_a_passing_trouble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "BUSY_TIMEOUT_SECONDS", 0.05)
    url = f"sqlite:///{tmp_path / 'mailboat.db'}"
    store = Store(url)
    store.migrate()
    other = create_engine(url)
    with other.connect() as held:
        held.exec_driver_sql("BEGIN IMMEDIATE")

        with pytest.raises(ServerUnavailable, match="locked"), store.transaction():
            pass
    other.dispose()


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "mysql://x/y", "nonsense"])
def test_a_database_that_would_not_keep_anything_or_is_unknown_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationInvalid, match=r"sqlite|database"):
        Store(url)


def test_a_server_that_has_no_address_is_a_passing_trouble() -> None:
    """The network is away, and its names with it."""
    pytest.importorskip("psycopg")
    store = Store("postgresql+psycopg://mailboat@db.invalid/mailboat")

    with pytest.raises(ServerUnavailable, match="does not answer") as away:
        store.ping()

    assert "database_url" in away.value.next_step
    store.close()


def test_an_option_that_the_server_does_not_know_is_explained() -> None:
    pytest.importorskip("psycopg")
    store = Store("postgresql+psycopg://mailboat@/mailboat?host=/nowhere&sslmod=require")

    with pytest.raises(ConfigurationInvalid, match="sslmod"):
        store.ping()
    store.close()


@pytest.mark.slow
def test_a_standby_that_takes_no_writes_yet_is_a_passing_trouble(postgres: PostgresServer) -> None:
    url = postgres.database("migrated")
    name = make_url(url).database
    postgres.sql("postgres", f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    store = Store(url)

    with pytest.raises(ServerUnavailable, match="read-only"), store.device_transaction() as tx:
        tx.execute(ADD)
    store.close()


@pytest.mark.parametrize("content", [b"no database " * 1000, None])
def test_a_file_that_is_no_database_is_explained(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "mailboat.db"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)

    with pytest.raises(DatabaseUnusable, match="cannot be used"):
        Store(f"sqlite:///{path}").migrate()


def test_a_damaged_database_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "mailboat.db"
    store = Store(f"sqlite:///{path}")
    store.migrate()
    store.close()
    content = bytearray(path.read_bytes())
    for page in range(4096, len(content), 4096):
        content[page : page + 2048] = b"\xff" * 2048
    path.write_bytes(content)

    with pytest.raises(DatabaseUnusable, match="malformed"):
        Store(f"sqlite:///{path}").migrate()

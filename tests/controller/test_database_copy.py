"""A database moves whole, to a server or back, or stays where it is."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import JSON, Boolean, Column, Float, Integer, LargeBinary, String, select, text

from audit_tampering import unlock
from enrolled_fleet import NOON, EnrolledFleet, migrated_database
from mailboat_controller import cli
from mailboat_controller.ingest.partition import PARTITIONS_MAX
from mailboat_controller.store import (
    all_tables,
    audit,
    database_copy,
    engine,
    events,
    fleet_counts,
    table_copy,
)
from mailboat_controller.store.database_copy import ACTION, Copied
from mailboat_controller.store.database_url import URL_LENGTH_MAX, named
from mailboat_controller.store.engine import Store
from mailboat_controller.store.locks import LEADER, partition_lock
from mailboat_controller.store.table_copy import DatabaseNotCopied
from mailboat_schemas.errors import ConfigurationInvalid, ServerUnavailable
from mailboat_schemas.events import EventKind
from postgres_server import PostgresServer

WAYS = [
    ("sqlite", "sqlite"),
    pytest.param(("sqlite", "postgresql"), marks=pytest.mark.slow),
    pytest.param(("postgresql", "sqlite"), marks=pytest.mark.slow),
]
SECRET = "s3cr3t"


def sqlite(path: Path, *, empty: bool = False) -> str:
    if not empty:
        path.write_bytes(migrated_database())
    return f"sqlite:///{path}"


@pytest.fixture(params=WAYS)
def urls(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """Of a migrated database and of one without rows; without tables where it may take longer."""

    def server() -> PostgresServer:
        found: PostgresServer = request.getfixturevalue("postgres")
        return found

    source: dict[str, Callable[[], str]] = {
        "sqlite": lambda: sqlite(tmp_path / "source.db"),
        "postgresql": lambda: server().database("migrated"),
    }
    target: dict[str, Callable[[], str]] = {
        "sqlite": lambda: sqlite(tmp_path / "target.db", empty=request.param[0] != "sqlite"),
        "postgresql": lambda: server().database(),
    }
    return source[request.param[0]](), target[request.param[1]]()


@pytest.fixture
def fleet(tmp_path: Path, urls: tuple[str, str]) -> Iterator[EnrolledFleet]:
    fleet = EnrolledFleet(tmp_path, urls[0])
    yield fleet
    fleet.store.close()


@pytest.fixture
def target(urls: tuple[str, str]) -> Iterator[Store]:
    store = Store(urls[1])
    yield store
    store.close()


def copied(fleet: EnrolledFleet, target: Store, **more: Any) -> Copied:
    return database_copy.copy(
        fleet.store, target, actor="local:root", reason="grown", now=NOON, **more
    )


def value_for(column: Column[Any], row: int) -> object:
    """Some value of its type, another one in each row; every other row leaves out what may be."""
    if column.nullable and row % 2:
        return None
    kind = column.type
    if isinstance(kind, JSON):
        return {"row": row, "text": "é\n\"'", "number": 1.5, "none": None, "list": [1, 1 << 53]}
    if isinstance(kind, Boolean):
        return row % 2 == 0
    if isinstance(kind, LargeBinary):
        return bytes([0, 255, row])
    if isinstance(kind, Float):
        return row + 0.1
    if isinstance(kind, Integer):
        return row
    assert isinstance(kind, String)
    return f"{row}é"[: kind.length]


def fill_every_table(store: Store, rows: int = 5) -> None:
    """All but the audit log, which is a chain."""
    with store.transaction() as tx:
        for table in all_tables.metadata.sorted_tables:
            if table.name != "audit":
                tx.execute(
                    table.insert(),
                    [
                        {column.name: value_for(column, row) for column in table.columns}
                        for row in range(1, rows + 1)
                    ],
                )
                for column in table.columns:
                    if isinstance(column.type, JSON) and column.nullable:
                        # As an application that says nothing leaves it.
                        tx.execute(
                            text(
                                f"UPDATE {table.name} SET {column.name} = NULL "  # noqa: S608
                                f"WHERE CAST({column.name} AS TEXT) = 'null'"
                            )
                        )


def everything(store: Store) -> dict[str, list[tuple[Any, ...]]]:
    with store.read() as tx:
        found = {}
        for table in all_tables.metadata.sorted_tables:
            missing = [c.is_(None).label(f"{c.name}_missing") for c in table.c if c.nullable]
            query = select(table, *missing).order_by(*table.primary_key.columns)
            # As text: JSON has no order among rows that two databases sort by another rule.
            found[table.name] = sorted((tuple(row) for row in tx.execute(query)), key=repr)
        return found


def test_every_row_of_every_table_comes_as_it_is(fleet: EnrolledFleet, target: Store) -> None:
    fill_every_table(fleet.store)

    done = copied(fleet, target)

    sent, came = everything(fleet.store), everything(target)
    assert came == sent
    assert done.tables == len(sent)
    assert done.rows == sum(map(len, sent.values())) == 5 * (len(sent) - 1) + 1


def test_the_audit_chain_holds_there_and_both_say_that_it_was_copied(
    fleet: EnrolledFleet, target: Store
) -> None:
    with fleet.store.transaction() as tx:
        for n in range(3):
            audit.append(
                tx, at=NOON, actor="a", action="b.c", subject="é", details={"n": n, "x": 0.1}
            )

    done = copied(fleet, target)

    for store in (fleet.store, target):
        with store.read() as tx:
            assert audit.verify(tx) is None
            assert audit.head(tx) == (done.audit_entries, done.audit_head)
            newest = audit.page(tx)[-1]
        assert (newest.sequence, newest.action, newest.actor) == (4, ACTION, "local:root")
        assert newest.reason == "grown"


def test_a_controller_goes_on_there_and_gives_no_number_twice(
    fleet: EnrolledFleet, target: Store, tmp_path: Path
) -> None:
    device = fleet.enrol("dev-1")
    gone = fleet.enrol("dev-2")
    fleet.take(device.numbered(1, 5), gone.numbered(1, 2))
    with fleet.store.transaction() as tx:
        tx.execute(text("DELETE FROM devices WHERE device = 'dev-2'"))
    copied(fleet, target)

    there = EnrolledFleet(tmp_path / "there", str(target._engine.url))
    newest = there.enrol("dev-3")
    there.take(device.numbered(4, 8), newest.tells(1, EventKind.COMMITTED))

    with there.store.read() as tx:
        rows = events.page(tx)
    assert [row.sequence for row in rows if row.device == "dev-1"] == list(range(1, 9))
    assert len({row.id for row in rows}) == len(rows)
    assert there.row(device).enrolment_number == 1
    # SQLite too: the highest number was given to a device that is gone.
    assert there.row(newest).enrolment_number == 3
    there.store.close()


def test_parts_are_bounded_and_told(
    fleet: EnrolledFleet, target: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_copy, "ROWS_AT_ONCE", 2)
    monkeypatch.setattr(table_copy, "BLOB_ROWS_AT_ONCE", 1)
    fill_every_table(fleet.store)
    total = database_copy.count_rows(fleet.store)
    told: list[int] = []

    done = copied(fleet, target, advance=told.append)

    assert set(told) == {1, 2}
    assert sum(told) == done.rows == total + 1


def test_nobody_writes_to_the_source_meanwhile(
    fleet: EnrolledFleet, target: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "BUSY_TIMEOUT_SECONDS", 0.05)
    monkeypatch.setattr(engine, "LOCK_WAIT_SECONDS", 1)
    other = Store(fleet.url)  # as a command on this disk
    refused: list[str] = []

    def write(_rows: int) -> None:
        if not refused:
            with pytest.raises(ServerUnavailable), other.transaction() as tx:
                audit.append(tx, at=NOON, actor="a", action="b.c", subject="d")
            refused.append("yes")

    copied(fleet, target, advance=write)

    other.close()
    assert refused


def test_a_target_with_anything_in_it_is_refused_and_left_alone(
    fleet: EnrolledFleet, target: Store
) -> None:
    copied(fleet, target)
    before = everything(target)

    with pytest.raises(DatabaseNotCopied, match="rows in audit") as refused:
        copied(fleet, target)

    assert "new, empty database" in refused.value.next_step
    assert everything(target) == before


@pytest.mark.parametrize("statement", ["CREATE TABLE x (y INTEGER)", None])
def test_a_target_of_another_program_or_version_is_refused(
    fleet: EnrolledFleet, target: Store, statement: str | None
) -> None:
    if statement is None:
        target.migrate()
        statement = "UPDATE alembic_version SET version_num = '0001'"
    with target.transaction() as tx:
        if statement.startswith("CREATE"):
            tx.execute(text("DROP TABLE IF EXISTS alembic_version"))
        tx.execute(text(statement))

    with pytest.raises(DatabaseNotCopied, match="another program, or of another version"):
        copied(fleet, target)


def test_a_source_of_another_version_is_refused(fleet: EnrolledFleet, target: Store) -> None:
    with fleet.store.transaction() as tx:
        tx.execute(text("UPDATE alembic_version SET version_num = '0001'"))

    with pytest.raises(DatabaseNotCopied, match="not of this version"):
        copied(fleet, target)


@pytest.mark.parametrize("which", ["source", "target"])
def test_a_database_that_somebody_works_with_is_not_copied(
    fleet: EnrolledFleet, target: Store, which: str
) -> None:
    used = fleet.store if which == "source" else target
    names = [LEADER] if used.is_sqlite else [LEADER, partition_lock(PARTITIONS_MAX - 1)]
    for name in names:
        held = used.try_hold(name)
        assert held is not None
        with held, pytest.raises(DatabaseNotCopied, match=name):
            copied(fleet, target)

    assert copied(fleet, target).audit_entries == 1  # nothing was left behind


def test_a_log_that_does_not_hold_is_not_carried_on(fleet: EnrolledFleet, target: Store) -> None:
    with fleet.store.transaction() as tx:
        audit.append(tx, at=NOON, actor="a", action="b.c", subject="d")
        unlock(tx)
        tx.execute(text("UPDATE audit SET reason = 'forged'"))

    with pytest.raises(DatabaseNotCopied, match="entry 1 of the audit log"):
        copied(fleet, target)

    with target.read() as tx:
        assert audit.head(tx)[0] == 0
    with fleet.store.read() as tx:
        assert audit.head(tx)[0] == 1


def test_a_row_that_gets_lost_is_noticed(
    fleet: EnrolledFleet, target: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.take(fleet.enrol("dev-1").numbered(1, 5))
    whole = table_copy._sent

    def lossy(send: Any, into: Any, table: Any, rows: Any) -> None:
        whole(send, into, table, rows[1:] if table.name == "events" else rows)

    monkeypatch.setattr(table_copy, "_sent", lossy)

    with pytest.raises(DatabaseNotCopied, match="events has 4 rows, and 5 were sent"):
        copied(fleet, target)
    with target.read() as tx:
        assert events.count(tx) == 0


@pytest.mark.slow
def test_what_does_not_fit_is_named_and_nothing_is_kept(
    tmp_path: Path, postgres: PostgresServer
) -> None:
    fleet = EnrolledFleet(tmp_path)
    target = Store(postgres.database())
    with fleet.store.transaction() as tx:
        tx.execute(
            text(
                "INSERT INTO quarantine (id, topic, code, problem, payload, received_at) "
                "VALUES (7, :long, 'c', 'p', x'', 0)"
            ),
            {"long": "x" * 600},
        )

    with pytest.raises(DatabaseNotCopied, match="quarantine from 7 to 7 does not fit"):
        copied(fleet, target)

    with target.read() as tx:
        assert audit.head(tx)[0] == 0
    fleet.store.close()
    target.close()


@pytest.mark.slow
def test_a_zero_character_that_only_sqlite_holds_is_left_out(
    tmp_path: Path, postgres: PostgresServer
) -> None:
    fleet = EnrolledFleet(tmp_path)
    target = Store(postgres.database())
    with fleet.store.transaction() as tx:
        tx.execute(
            text(
                "INSERT INTO quarantine (topic, code, problem, payload, received_at) "
                "VALUES ('t', 'c', :problem, x'', 0)"
            ),
            {"problem": "a\0b"},
        )
    fleet.take(fleet.enrol("dev-1").report())
    with fleet.store.transaction() as tx:
        tx.execute(text("UPDATE devices SET report = replace(report, '[]', '[\"\\u0000\"]')"))

    copied(fleet, target)

    with target.read() as tx:
        assert tx.execute(text("SELECT problem FROM quarantine")).scalar() == "ab"
        assert fleet_counts.by_site(tx, NOON)[0].revoked == 0
    fleet.store.close()
    target.close()


class TestTheUrl:
    @pytest.mark.parametrize(
        "url",
        [
            f"postgresql+psycopg://mailboat:{SECRET}@db/mailboat",
            f"postgresql+psycopg://mailboat@db/mailboat?password={SECRET}",
            f"postgresql+psycopg://mailboat:x@{SECRET}:port/mailboat",
            SECRET,
        ],
    )
    def test_has_no_password_where_others_read_it_and_none_is_repeated(self, url: str) -> None:
        with pytest.raises(ConfigurationInvalid) as refused:
            named(url, None)

        assert SECRET not in str(refused.value) + refused.value.next_step

    def test_may_have_one_in_a_file(self, tmp_path: Path) -> None:
        url = f"postgresql+psycopg://mailboat:{SECRET}@db/mailboat"
        (tmp_path / "url").write_text(f"{url}\n")

        assert named("", tmp_path / "url") == url

    @pytest.mark.parametrize("content", [b"", b"a\nb", b"\xff", b"x" * (URL_LENGTH_MAX + 1), None])
    def test_file_without_one_line_is_explained(
        self, tmp_path: Path, content: bytes | None
    ) -> None:
        if content is not None:
            (tmp_path / "url").write_bytes(content)

        with pytest.raises(ConfigurationInvalid, match="url"):
            named("", tmp_path / "url")

    def test_is_named_once(self, tmp_path: Path) -> None:
        for url, file in (("", None), ("sqlite:////x", tmp_path)):
            with pytest.raises(ConfigurationInvalid, match="once"):
                named(url, file)

    def test_with_a_port_that_is_none_is_refused_without_a_word_of_it(self) -> None:
        with pytest.raises(ConfigurationInvalid) as refused:
            Store(f"postgresql+psycopg://mailboat:x@{SECRET}:port/mailboat")

        assert SECRET not in str(refused.value) + refused.value.next_step


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["mailboat", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


class TestTheCommand:
    @pytest.fixture
    def config(self, tmp_path: Path) -> Path:
        (tmp_path / "data").mkdir()
        path = tmp_path / "data" / "controller.toml"
        path.write_text('fleet = "demo"\ndata_dir = "."\n')
        return path

    def test_copies_and_says_what_came(
        self, config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        source = Store(sqlite(config.parent / "mailboat.db"))
        target = config.parent / "other.db"
        options = ["--to", f"sqlite:///{target}", "--config", config]

        assert run(monkeypatch, "db", "copy", *options, "--json") == 0

        told = json.loads(capsys.readouterr().out)
        with source.read() as tx:
            head = audit.head(tx)
        source.close()
        assert (told["rows"], told["audit_entries"], told["audit_head"]) == (1, *head)

        assert run(monkeypatch, "db", "copy", *options) == 1
        said = capsys.readouterr().err
        assert "E-DATABASE-COPY" in said
        assert "next step" in said

    def test_says_what_to_do_next(
        self, config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        sqlite(config.parent / "mailboat.db")
        (config.parent / "url").write_text(f"sqlite:///{config.parent / 'other.db'}")

        assert (
            run(monkeypatch, "db", "copy", "--to-file", config.parent / "url", "--config", config)
            == 0
        )

        assert "database_url" in capsys.readouterr().out

"""The database that migrations make is the one that the tables describe."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, inspect, text

from mailboat_controller.store import all_tables, engine, quarantine
from mailboat_controller.store.engine import DatabaseUnusable, Store

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


def test_migrations_lead_to_exactly_the_tables_of_the_metadata(database_url: str) -> None:
    made = create_engine(database_url)

    with made.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        differences = compare_metadata(context, all_tables.metadata)
        revision = context.get_current_revision()
    made.dispose()

    assert differences == []
    assert revision == all_tables.SCHEMA_VERSION


def test_the_number_that_a_start_compares_is_that_of_the_newest_migration() -> None:
    """With an older one a database would never be brought to the newest."""
    config = Config()
    config.set_main_option("script_location", str(engine.MIGRATIONS))

    assert ScriptDirectory.from_config(config).get_heads() == [all_tables.SCHEMA_VERSION]


def test_a_database_that_a_newer_mailboat_has_migrated_is_left_alone(database_url: str) -> None:
    store = Store(database_url)
    with store.transaction() as tx:
        tx.execute(text("UPDATE alembic_version SET version_num = '9999'"))

    with pytest.raises(DatabaseUnusable, match=r"version 9999 by a newer Mailboat"):
        store.migrate()

    store.close()


def test_enrolment_numbers_and_audit_sequences_are_never_given_twice(tmp_path: Path) -> None:
    """SQLite reuses the highest rowid unless a table says AUTOINCREMENT."""
    url = f"sqlite:///{tmp_path / 'mailboat.db'}"
    store = Store(url)
    store.migrate()
    store.close()
    made = create_engine(url)

    with made.connect() as connection:
        statements: dict[str, str] = dict(
            connection.execute(
                text("SELECT name, sql FROM sqlite_master WHERE type = 'table'")
            ).fetchall()
        )
        names = set(inspect(connection).get_table_names())
    made.dispose()

    assert "AUTOINCREMENT" in statements["devices"]
    assert "AUTOINCREMENT" in statements["audit"]
    assert names == {*all_tables.metadata.tables, "alembic_version"}


def test_a_database_of_the_first_version_is_brought_here_with_what_it_holds(
    database_url: str,
) -> None:
    store = Store(database_url)
    config = Config()
    config.set_main_option("script_location", str(engine.MIGRATIONS))
    with store.transaction() as tx:
        quarantine.put(tx, topic="t", code="c", problem="p", payload=b"x", at=NOON)
        config.attributes["connection"] = tx
        command.downgrade(config, "0001")

    store.migrate()

    with store.read() as tx:
        assert quarantine.count(tx) == 1
    assert store.is_migrated()
    store.close()

"""The database that migrations make is the one that the tables describe."""

from pathlib import Path

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, inspect, text

from mailboat_controller.store import tables
from mailboat_controller.store.engine import Store


def test_migrations_lead_to_exactly_the_tables_of_the_metadata(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'mailboat.db'}"
    store = Store(url)
    store.migrate()
    store.close()
    engine = create_engine(url)

    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        differences = compare_metadata(context, tables.metadata)
        revision = context.get_current_revision()
    engine.dispose()

    assert differences == []
    assert revision == "0001"


def test_enrolment_numbers_and_audit_sequences_are_never_given_twice(tmp_path: Path) -> None:
    """SQLite reuses the highest rowid unless a table says AUTOINCREMENT."""
    url = f"sqlite:///{tmp_path / 'mailboat.db'}"
    store = Store(url)
    store.migrate()
    store.close()
    engine = create_engine(url)

    with engine.connect() as connection:
        made: dict[str, str] = dict(
            connection.execute(
                text("SELECT name, sql FROM sqlite_master WHERE type = 'table'")
            ).fetchall()
        )
        names = set(inspect(connection).get_table_names())
    engine.dispose()

    assert "AUTOINCREMENT" in made["devices"]
    assert "AUTOINCREMENT" in made["audit"]
    assert names == {*tables.metadata.tables, "alembic_version"}

"""Alembic's entry point: runs on the connection, and in the transaction, of `Store.migrate`."""

from alembic import context

from mailboat_controller.store import all_tables

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=all_tables.metadata,
    render_as_batch=True,  # SQLite alters a table by copying it
)
with context.begin_transaction():
    context.run_migrations()

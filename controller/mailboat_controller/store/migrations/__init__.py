"""Alembic revisions; `Store.migrate` applies them. The newest equals ``all_tables.metadata``."""

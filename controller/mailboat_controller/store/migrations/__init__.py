"""Alembic revisions; `Store.migrate` applies them. The newest equals ``tables.metadata``."""

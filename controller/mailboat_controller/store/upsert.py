"""Insert or update in one statement, which both databases have under the same words."""

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql, sqlite


def upsert(tx: Connection, table: Table) -> sqlite.Insert | postgresql.Insert:
    """An insert that may be told what to do when its key is there (``on_conflict_do_update``)."""
    if tx.dialect.name == "postgresql":
        return postgresql.insert(table)
    return sqlite.insert(table)

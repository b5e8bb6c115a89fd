"""Signed heads of the audit log, and what this database was restored from."""

from sqlalchemy import JSON, BigInteger, Column, String, Table, Text

from mailboat_controller.store.table_names import metadata
from mailboat_controller.store.tables import RowId

audit_heads = Table(
    "audit_heads",
    metadata,
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("hash", String(64), nullable=False),
    Column("signed", Text, nullable=False),  # as `mailboat audit head` prints it
    Column("signed_at", BigInteger, nullable=False),
)

# A restore or rebuild of this database, and what had to be learned before anything was published.
recoveries = Table(
    "recoveries",
    metadata,
    Column("id", RowId, primary_key=True, autoincrement=True),
    Column("kind", String(16), nullable=False),  # restore | rebuild
    Column("begun_at", BigInteger, nullable=False),
    Column("backup_at", BigInteger, nullable=True),  # when the backup was made
    Column("finished_at", BigInteger, nullable=True),  # NULL: nothing may be published yet
    Column("actor", String(128), nullable=False),
    Column("reason", Text, nullable=False),
    Column("learned", JSON, nullable=False),
    sqlite_autoincrement=True,
)

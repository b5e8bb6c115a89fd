"""Changes that were asked for under a key, and how they were answered."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    String,
    Table,
)

from mailboat_controller.store.table_names import metadata

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("caller", String(256), nullable=False),
    Column("key", String(128), nullable=False),
    Column("request_sha256", String(64), nullable=False),
    Column("begun_at", BigInteger, nullable=False),
    Column("ends_at", BigInteger, nullable=False),
    Column("status", Integer, nullable=True),  # null: not ended
    Column("whole", Integer, nullable=False),  # 1: headers and body are the answer's
    Column("headers", JSON, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("attempt", String(32), nullable=False),  # the one that has the change in hand
    Column("written", Integer, nullable=False),  # 1: it has committed something, if not all
    PrimaryKeyConstraint("caller", "key", name="pk_idempotency_keys"),
    Index("ix_idempotency_keys_ends_at", "ends_at"),
)

"""The tables of webhooks: who is told what, and every telling that waits or was made."""

from sqlalchemy import JSON, BigInteger, Column, Index, Integer, LargeBinary, String, Table, Text

from mailboat_controller.store.table_names import metadata

# The secret stands in a file of the controller's disk, never here: a copy of the database signs
# nothing. Which file it is stands here: a new secret is in force from the commit that names it.
webhooks = Table(
    "webhooks",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("url", Text, nullable=False),
    Column("types", JSON, nullable=False),  # of events; [] is all of them
    Column("models", JSON, nullable=False),  # [] is all of them, and events about none
    Column("state", String(16), nullable=False),  # `store.webhooks.State`
    Column("because", Text, nullable=False),
    Column("failures", Integer, nullable=False),  # in a row
    Column("failing_since", BigInteger, nullable=True),
    Column("created_by", String(128), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("secret_file", String(100), nullable=False),
)

webhook_deliveries = Table(
    "webhook_deliveries",
    metadata,
    Column("webhook", String(63), primary_key=True),
    Column("event", String(64), primary_key=True),  # its id, the same in every attempt
    Column("number", BigInteger, nullable=False),  # of its entry in the audit log, for the order
    Column("type", String(64), nullable=False),
    Column("body", LargeBinary, nullable=False),  # exactly what is signed and sent
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_attempt_at", BigInteger, nullable=False),
    Column("status", Integer, nullable=True),  # of the newest answer
    Column("problem", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger, nullable=True),
)
Index(
    "ix_webhook_deliveries_due",
    webhook_deliveries.c.webhook,
    webhook_deliveries.c.state,
    webhook_deliveries.c.next_attempt_at,
)
Index("ix_webhook_deliveries_created_at", webhook_deliveries.c.created_at)

# How far in the audit log each reader has come: webhooks, exported spans.
audit_readers = Table(
    "audit_readers",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("sequence", BigInteger, nullable=False),
)

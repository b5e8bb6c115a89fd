"""The tables of rollback drills: what was ordered, and the newest that each device has told."""

from sqlalchemy import BigInteger, Column, Float, Index, String, Table, Text

from mailboat_controller.store.table_names import metadata

drill_orders = Table(
    "drill_orders",
    metadata,
    Column("order", String(16), primary_key=True),
    Column("device", String(63), nullable=False),
    Column("model", String(63), nullable=False),  # empty: every model
    Column("by", String(128), nullable=False),
    Column("reason", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("answered_at", BigInteger, nullable=True),  # of one for one model
    Index("ix_drill_orders_device", "device"),
)

# By device and model; times are the controller's, in milliseconds.
drill_results = Table(
    "drill_results",
    metadata,
    Column("device", String(63), primary_key=True),
    Column("model", String(63), primary_key=True),
    Column("order", String(32), nullable=False),
    Column("outcome", String(8), nullable=False),
    Column("code", String(64), nullable=False),
    Column("because", Text, nullable=False),
    Column("version", String(64), nullable=True),
    Column("serving_version", String(64), nullable=True),
    Column("told_at", BigInteger, nullable=False),
    Column("passed_at", BigInteger, nullable=True),
    Column("return_ms", Float, nullable=True),  # of the last that passed
)

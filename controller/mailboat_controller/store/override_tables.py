"""The tables of what people ordered for single devices, and of what they noted of them."""

from sqlalchemy import BigInteger, Column, String, Table, Text

from mailboat_controller.store.table_names import metadata

overrides = Table(
    "overrides",
    metadata,
    Column("device", String(63), primary_key=True),
    Column("kind", String(8), primary_key=True),  # hold | pin
    Column("model", String(63), primary_key=True),  # empty: a hold of every model
    Column("version", String(64), nullable=True),
    Column("digest", String(64), nullable=True),
    Column("by", String(128), nullable=False),
    Column("reason", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
)

device_orders = Table(
    "device_orders",
    metadata,
    Column("device", String(63), primary_key=True),
    Column("counter", BigInteger, nullable=False),  # of the newest order it was given
)

operator_labels = Table(
    "operator_labels",
    metadata,
    Column("device", String(63), primary_key=True),
    Column("name", String(63), primary_key=True),
    Column("value", String(256), nullable=False),
)

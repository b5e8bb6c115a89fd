"""When a class was first told of a release, and with which manifest."""

from sqlalchemy import BigInteger, Column, String, Table

from mailboat_controller.store.table_names import metadata

first_told = Table(
    "first_told",
    metadata,
    Column("digest", String(64), primary_key=True),  # of the release document
    Column("hardware_class", String(63), primary_key=True),
    Column("role", String(16), primary_key=True),  # offer | current
    Column("counter", BigInteger, nullable=False),  # of the desired state
    Column("at", BigInteger, nullable=False),
)

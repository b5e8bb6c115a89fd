"""The table of what devices tell, summed up, on the metadata of `tables`."""

from sqlalchemy import BigInteger, Column, Float, Index, String, Table

from mailboat_controller.store.table_names import metadata

# One row for each sum: a figure of a release, by class, site and workload. ``part`` is what the
# figure is told apart by, such as the upper bound of a latency bucket; "" where it is one number.
fleet_sums = Table(
    "fleet_sums",
    metadata,
    Column("digest", String(64), primary_key=True),  # "": of devices, whatever they run
    Column("hardware_class", String(63), primary_key=True),
    Column("site", String(63), primary_key=True),
    Column("workload", String(16), primary_key=True),  # "": of any
    Column("figure", String(32), primary_key=True),
    Column("part", String(64), primary_key=True),
    Column("amount", Float(53), nullable=False),
    Column("updated_at", BigInteger, nullable=False),
)
Index("ix_fleet_sums_updated_at", fleet_sums.c.updated_at)

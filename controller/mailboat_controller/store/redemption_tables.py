"""The table of redeemed artifacts: which devices began to fetch a release that is on its way."""

from sqlalchemy import BigInteger, Column, Integer, String, Table

from mailboat_controller.store.table_names import metadata

# One row for a device and a try of a release, whatever number of files and ranges it fetches.
redemptions = Table(
    "redemptions",
    metadata,
    Column("digest", String(64), primary_key=True),  # of the release document
    Column("device", String(63), primary_key=True),
    Column("retry_epoch", Integer, primary_key=True),
    Column("redeemed_at", BigInteger, nullable=False),  # milliseconds, by the controller's clock
)

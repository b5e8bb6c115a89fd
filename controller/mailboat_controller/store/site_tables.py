"""The table of sites, on the metadata of `tables`."""

from sqlalchemy import JSON, BigInteger, Boolean, Column, Integer, String, Table

from mailboat_controller.store.table_names import metadata

sites = Table(
    "sites",
    metadata,
    Column("name", String(63), primary_key=True),  # also the common name of its bridge
    Column("policy", String(16), nullable=False),  # normal | expected | error
    Column("expected_until", BigInteger, nullable=True),
    Column("windows", JSON, nullable=False),  # when a cut is expected, UTC
    # Where the site's devices find its broker, and its cache; "" = none.
    Column("broker_host", String(253), nullable=False),
    Column("broker_port", Integer, nullable=False),
    Column("cache_url", String(512), nullable=False),
    Column("labels", JSON, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    # What the bridge last told of itself. NULL = it has never been here.
    Column("connected", Boolean, nullable=True),
    Column("changed_at", BigInteger, nullable=True),
    # Since when "connected" is no more than what the broker had retained; NULL = we heard it.
    Column("unconfirmed_since", BigInteger, nullable=True),
    # When the site last fetched its access rules; NULL = never.
    Column("fetched_at", BigInteger, nullable=True),
)

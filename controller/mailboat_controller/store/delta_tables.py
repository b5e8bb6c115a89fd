"""The tables of deltas: what is built or to be built, and how releases came to devices."""

from sqlalchemy import JSON, BigInteger, Boolean, Column, Float, Index, Integer, String, Table, Text

from mailboat_controller.store.table_names import metadata

# One row for each way a file may come: from one base, or ("") from none. The memory is what a
# decoder may take; classes that give the same share a row.
delta_builds = Table(
    "delta_builds",
    metadata,
    Column("target", String(64), primary_key=True),
    Column("base", String(64), primary_key=True),
    Column("memory_bytes_max", BigInteger, primary_key=True),
    Column("target_length", BigInteger, nullable=False),
    Column("base_length", BigInteger, nullable=False),
    Column("state", String(16), nullable=False),  # `store.deltas.State`
    Column("attempts", Integer, nullable=False),
    Column("code", String(64), nullable=False),  # of the newest failure, as in docs/errors.md
    Column("error", Text, nullable=False),
    Column("next_attempt_at", BigInteger, nullable=False),  # of a row that waits
    Column("format", String(64), nullable=False),  # from here on of what was built; "" is nothing
    Column("patch", String(64), nullable=False),
    Column("patch_length", BigInteger, nullable=False),
    Column("memory_bytes", BigInteger, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("candidates", JSON, nullable=False),  # what `explain` prints
    Column("offered", Boolean, nullable=False),  # devices are told
    Column("devices", Integer, nullable=False),  # that it would serve, when last counted
    Column("purposes", JSON, nullable=False),  # which file of which releases, on which class
    Column("ordered_by", String(128), nullable=False),  # by hand; "" is by what the fleet runs
    Column("unwanted_since", BigInteger, nullable=True),
    Column("queued_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
)
Index("ix_delta_builds_state", delta_builds.c.state)

# How releases came, summed up over what devices told with ``trial_started``. Sizes in bytes.
deliveries = Table(
    "deliveries",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("hardware_class", String(63), primary_key=True),
    Column("outcome", String(32), primary_key=True),  # `mailboat_schemas.deltas.DeliveryOutcome`
    Column("count", BigInteger, nullable=False),
    Column("fetched_bytes", BigInteger, nullable=False),
    Column("whole_bytes", BigInteger, nullable=False),  # of the same releases, file by file
)

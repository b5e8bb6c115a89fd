"""The tables of an artifact's life: retired releases, what nobody names, what was damaged."""

from sqlalchemy import JSON, BigInteger, Column, String, Table, Text

from mailboat_controller.store.table_names import metadata

retired_releases = Table(
    "retired_releases",
    metadata,
    Column("digest", String(64), primary_key=True),  # of the release document
    Column("actor", String(128), nullable=False),
    Column("reason", Text, nullable=False),
    Column("retired_at", BigInteger, nullable=False),
)

# What a collection found unnamed, and since when: its grace period counts from there, not from a
# file's time, which a restored backup changes.
unnamed_artifacts = Table(
    "unnamed_artifacts",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("since", BigInteger, nullable=False),
)

damaged_artifacts = Table(
    "damaged_artifacts",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("length", BigInteger, nullable=False),
    Column("problem", Text, nullable=False),
    Column("found_at", BigInteger, nullable=False),
)

# A row a job (scrub, garbage): how far it is, and what it found last.
artifact_jobs = Table(
    "artifact_jobs",
    metadata,
    Column("name", String(16), primary_key=True),
    Column("content", JSON, nullable=False),
)

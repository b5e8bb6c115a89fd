"""What devices told of a release beyond its verdict, on the metadata of `tables`: a ring's exit
criteria may ask for it."""

from sqlalchemy import BigInteger, Column, String, Table

from mailboat_controller.store.table_names import metadata

# One row for a release, a device and what it showed, however often it is told.
exit_evidence = Table(
    "exit_evidence",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("device", String(63), primary_key=True),
    Column("shown", String(16), primary_key=True),  # restarted | drilled
    Column("at", BigInteger, nullable=False),  # when the newest telling came, by our clock
)

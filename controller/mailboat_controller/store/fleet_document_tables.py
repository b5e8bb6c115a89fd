"""The table of documents that people signed for classes, sites and devices."""

from sqlalchemy import BigInteger, Column, Index, LargeBinary, String, Table, Text

from mailboat_controller.store.table_names import metadata

# Every one ever accepted; which of them hold is what the newest role lists.
fleet_documents = Table(
    "fleet_documents",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("role", String(16), nullable=False),
    Column("level", String(8), nullable=False),
    Column("target", String(63), nullable=False),
    Column("name", String(63), nullable=False),
    Column("version", String(64), nullable=False),
    Column("epoch", BigInteger, nullable=False),  # the highest it was listed under
    Column("document", LargeBinary, nullable=False),
    Column("accepted_at", BigInteger, nullable=False),
    Column("accepted_by", String(128), nullable=False),
    Column("reason", Text, nullable=False),
)
Index(
    "ix_fleet_documents_place",
    fleet_documents.c.role,
    fleet_documents.c.level,
    fleet_documents.c.target,
)

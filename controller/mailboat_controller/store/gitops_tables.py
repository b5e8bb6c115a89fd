"""The tables of what was applied from files: sets of documents, and each document's owner."""

from sqlalchemy import JSON, BigInteger, Boolean, Column, Index, Integer, String, Table, Text

from mailboat_controller.store.table_names import metadata

gitops_sets = Table(
    "gitops_sets",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("generation", BigInteger, nullable=False),  # counts the applies that changed something
    Column("commit", String(64), nullable=False),  # of the newest apply; empty: not told
    Column("applied_at", BigInteger, nullable=True),
    Column("applied_by", String(128), nullable=False),
    # As the loop that pulls last told; empty while none has.
    Column("repository", Text, nullable=False),
    Column("branch", Text, nullable=False),
    Column("pulled_commit", String(64), nullable=False),
    Column("signer", Text, nullable=False),
    Column("state", String(16), nullable=False),
    Column("because", Text, nullable=False),
    Column("differences", Integer, nullable=False),
    Column("pulled_at", BigInteger, nullable=True),
)

gitops_documents = Table(
    "gitops_documents",
    metadata,
    # One owner each: two sets cannot both say what one thing is.
    Column("kind", String(32), primary_key=True),
    Column("name", String(63), primary_key=True),
    Column("set_name", String(63), nullable=False),
    Column("made", Boolean, nullable=False),  # by apply; what was there before is never pruned
    Column("document", JSON, nullable=False),
    Column("devices", JSON, nullable=False),  # that a Hold or Pin was ordered for
    Column("applied_at", BigInteger, nullable=False),
)
Index("ix_gitops_documents_set_name", gitops_documents.c.set_name)

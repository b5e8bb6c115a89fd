"""The table of people's tokens, on the metadata of `tables`."""

from sqlalchemy import BigInteger, Column, Index, Integer, String, Table

from mailboat_controller.store.table_names import metadata

access_tokens = Table(
    "access_tokens",
    metadata,
    Column("id", String(16), primary_key=True),  # public
    # The id of the token that was issued; those it was renewed into carry it on.
    Column("family", String(16), nullable=False),
    Column("name", String(63), nullable=False),
    Column("role", String(16), nullable=False),  # viewer | operator | approver
    Column("secret_sha256", String(64), nullable=False),  # the secret itself is never stored
    Column("days", Integer, nullable=False),  # of each renewal
    Column("created_at", BigInteger, nullable=False),
    Column("created_by", String(128), nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("renewable_until", BigInteger, nullable=False),
    Column("last_used_at", BigInteger, nullable=True),  # NULL = never
    Column("revoked_at", BigInteger, nullable=True),
)
Index("ix_access_tokens_family", access_tokens.c.family)
Index("ix_access_tokens_name", access_tokens.c.name)

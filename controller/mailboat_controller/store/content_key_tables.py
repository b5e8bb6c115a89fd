"""The tables of content keys."""

from sqlalchemy import BigInteger, Column, LargeBinary, String, Table

from mailboat_controller.store.table_names import metadata

# Only ever wrapped: without the key-encryption key a stolen database opens no model.
content_keys = Table(
    "content_keys",
    metadata,
    Column("key_id", String(32), primary_key=True),
    Column("wrapped", LargeBinary, nullable=False),  # nonce (12), ciphertext (32), tag (16)
    Column("kek", String(128), nullable=False),  # which key-encryption key wraps it
    Column("handed_over_by", String(128), nullable=False),
    Column("created_at", BigInteger, nullable=False),
)

# Which device was given which key, under which of its own keys; once each, however often it asks.
content_key_grants = Table(
    "content_key_grants",
    metadata,
    Column("key_id", String(32), primary_key=True),
    Column("device", String(63), primary_key=True),
    Column("device_key", String(64), primary_key=True),  # sha256 of its public key
    Column("given_at", BigInteger, nullable=False),
)

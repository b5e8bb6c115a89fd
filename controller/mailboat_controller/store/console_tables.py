"""The table of people's sessions in the console, on the metadata of `tables`."""

from sqlalchemy import BigInteger, Column, Index, String, Table

from mailboat_controller.store.table_names import metadata

console_sessions = Table(
    "console_sessions",
    metadata,
    Column("secret_sha256", String(64), primary_key=True),  # the secret itself is never stored
    Column("token_id", String(16), nullable=False),  # the access token it stands for
    Column("began_at", BigInteger, nullable=False),
    Column("seen_at", BigInteger, nullable=False),
    Column("ends_at", BigInteger, nullable=False),
)
Index("ix_console_sessions_token_id", console_sessions.c.token_id)
Index("ix_console_sessions_ends_at", console_sessions.c.ends_at)

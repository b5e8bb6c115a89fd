"""Keys of encrypted releases, wrapped."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "content_keys",
        sa.Column("key_id", sa.String(32), nullable=False),
        sa.Column("wrapped", sa.LargeBinary(), nullable=False),
        sa.Column("kek", sa.String(128), nullable=False),
        sa.Column("handed_over_by", sa.String(128), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("key_id", name="pk_content_keys"),
    )
    op.create_table(
        "content_key_grants",
        sa.Column("key_id", sa.String(32), nullable=False),
        sa.Column("device", sa.String(63), nullable=False),
        sa.Column("device_key", sa.String(64), nullable=False),
        sa.Column("given_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("key_id", "device", "device_key", name="pk_content_key_grants"),
    )


def downgrade() -> None:
    op.drop_table("content_key_grants")
    op.drop_table("content_keys")

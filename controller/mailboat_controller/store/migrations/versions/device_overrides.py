"""Holds and pins of single devices, the newest order each was given, and operators' labels."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.create_table(
        "overrides",
        sa.Column("device", sa.String(63), nullable=False),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("model", sa.String(63), nullable=False),
        sa.Column("version", sa.String(64), nullable=True),
        sa.Column("digest", sa.String(64), nullable=True),
        sa.Column("by", sa.String(128), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("device", "kind", "model", name="pk_overrides"),
    )
    op.create_table(
        "device_orders",
        sa.Column("device", sa.String(63), nullable=False),
        sa.Column("counter", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("device", name="pk_device_orders"),
    )
    op.create_table(
        "operator_labels",
        sa.Column("device", sa.String(63), nullable=False),
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("value", sa.String(256), nullable=False),
        sa.PrimaryKeyConstraint("device", "name", name="pk_operator_labels"),
    )


def downgrade() -> None:
    op.drop_table("operator_labels")
    op.drop_table("device_orders")
    op.drop_table("overrides")

"""Rollback drills: orders for single devices, and the newest result of each device and model."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    op.create_table(
        "drill_orders",
        sa.Column("order", sa.String(16), nullable=False),
        sa.Column("device", sa.String(63), nullable=False),
        sa.Column("model", sa.String(63), nullable=False),
        sa.Column("by", sa.String(128), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("answered_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("order", name="pk_drill_orders"),
    )
    op.create_index("ix_drill_orders_device", "drill_orders", ["device"])
    op.create_table(
        "drill_results",
        sa.Column("device", sa.String(63), nullable=False),
        sa.Column("model", sa.String(63), nullable=False),
        sa.Column("order", sa.String(32), nullable=False),
        sa.Column("outcome", sa.String(8), nullable=False),
        sa.Column("code", sa.String(64), nullable=False),
        sa.Column("because", sa.Text(), nullable=False),
        sa.Column("version", sa.String(64), nullable=True),
        sa.Column("serving_version", sa.String(64), nullable=True),
        sa.Column("told_at", sa.BigInteger(), nullable=False),
        sa.Column("passed_at", sa.BigInteger(), nullable=True),
        sa.Column("return_ms", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("device", "model", name="pk_drill_results"),
    )


def downgrade() -> None:
    op.drop_table("drill_results")
    op.drop_index("ix_drill_orders_device", "drill_orders")
    op.drop_table("drill_orders")

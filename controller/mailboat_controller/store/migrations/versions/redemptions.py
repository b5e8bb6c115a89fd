"""Which devices began to fetch a release that is on its way."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    op.create_table(
        "redemptions",
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("device", sa.String(63), nullable=False),
        sa.Column("retry_epoch", sa.Integer(), nullable=False),
        sa.Column("redeemed_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("digest", "device", "retry_epoch", name="pk_redemptions"),
    )


def downgrade() -> None:
    op.drop_table("redemptions")

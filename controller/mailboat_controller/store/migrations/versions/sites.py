"""Sites, and how the link to each stands."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.create_table(
        "sites",
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("policy", sa.String(16), nullable=False),
        sa.Column("expected_until", sa.BigInteger(), nullable=True),
        sa.Column("windows", sa.JSON(), nullable=False),
        sa.Column("broker_host", sa.String(253), nullable=False),
        sa.Column("broker_port", sa.Integer(), nullable=False),
        sa.Column("cache_url", sa.String(512), nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("connected", sa.Boolean(), nullable=True),
        sa.Column("changed_at", sa.BigInteger(), nullable=True),
        sa.Column("unconfirmed_since", sa.BigInteger(), nullable=True),
        sa.Column("fetched_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("name", name="pk_sites"),
    )
    op.create_index("ix_devices_site", "devices", ["site"])


def downgrade() -> None:
    op.drop_index("ix_devices_site", "devices")
    op.drop_table("sites")

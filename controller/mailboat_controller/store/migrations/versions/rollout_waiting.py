"""When a person last let a rollout go on: its waiting is counted from then."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    op.add_column("rollouts", sa.Column("resumed_at", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    op.drop_column("rollouts", "resumed_at")

"""What devices showed of a release beyond its verdict: restarts and rollback drills."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    op.create_table(
        "exit_evidence",
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("device", sa.String(63), nullable=False),
        sa.Column("shown", sa.String(16), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("digest", "device", "shown", name="pk_exit_evidence"),
    )


def downgrade() -> None:
    op.drop_table("exit_evidence")

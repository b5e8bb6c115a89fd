"""Retired releases, what nobody names, and what a scrub found."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Tables of the artifact store's life."""
    op.create_table(
        "retired_releases",
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("actor", sa.String(128), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("retired_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_retired_releases"),
    )
    op.create_table(
        "unnamed_artifacts",
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_unnamed_artifacts"),
    )
    op.create_table(
        "damaged_artifacts",
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("length", sa.BigInteger(), nullable=False),
        sa.Column("problem", sa.Text(), nullable=False),
        sa.Column("found_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_damaged_artifacts"),
    )
    op.create_table(
        "artifact_jobs",
        sa.Column("name", sa.String(16), nullable=False),
        sa.Column("content", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_artifact_jobs"),
    )


def downgrade() -> None:
    """Tables of the artifact store's life."""
    for name in ("artifact_jobs", "damaged_artifacts", "unnamed_artifacts", "retired_releases"):
        op.drop_table(name)

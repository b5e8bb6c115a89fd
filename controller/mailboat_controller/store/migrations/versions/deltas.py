"""Deltas that were built, and what each class is told of them."""

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Tables of the delta room."""


def downgrade() -> None:
    """Tables of the delta room."""

"""Retired releases, where releases were imported from, and what a scrub found."""

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Tables of the artifact store's life."""


def downgrade() -> None:
    """Tables of the artifact store's life."""

"""What renewal, approval and run-time revocation of devices need to know."""

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    pass


def downgrade() -> None:
    pass

"""Which attempt has a change in hand, and if it wrote anything; devices by when they changed."""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"


def upgrade() -> None:
    _make_anew(
        sa.Column("attempt", sa.String(32), nullable=False),
        sa.Column("written", sa.Integer(), nullable=False),
    )
    op.create_index("ix_devices_presence_at", "devices", ["presence_at"])


def downgrade() -> None:
    op.drop_index("ix_devices_presence_at", "devices")
    _make_anew()


def _make_anew(*more: sa.Column[int] | sa.Column[str]) -> None:
    """What was kept, of a day at most, is forgotten: nobody could say which attempt it was of."""
    op.drop_table("idempotency_keys")
    op.create_table(
        "idempotency_keys",
        sa.Column("caller", sa.String(256), nullable=False),
        sa.Column("key", sa.String(128), nullable=False),
        sa.Column("request_sha256", sa.String(64), nullable=False),
        sa.Column("begun_at", sa.BigInteger(), nullable=False),
        sa.Column("ends_at", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("whole", sa.Integer(), nullable=False),
        sa.Column("headers", sa.JSON(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        *more,
        sa.PrimaryKeyConstraint("caller", "key", name="pk_idempotency_keys"),
    )
    op.create_index("ix_idempotency_keys_ends_at", "idempotency_keys", ["ends_at"])

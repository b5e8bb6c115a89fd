"""For many devices: partitions, thinned history, clocks, and ids that two devices have."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

_DEVICE_TIMES = ("presence_at", "clock_offset_ms", "clock_seen_at", "doubled_at")


def upgrade() -> None:
    for name in _DEVICE_TIMES:
        op.add_column("devices", sa.Column(name, sa.BigInteger(), nullable=True))
    op.add_column("devices", sa.Column("doubled_by", sa.String(64), nullable=True))
    for name, kind in (("began_at", sa.BigInteger()), ("level", sa.Integer())):
        op.add_column("telemetry", sa.Column(name, kind, nullable=False, server_default="0"))
    op.execute("UPDATE telemetry SET began_at = received_at")
    op.create_index("ix_telemetry_level", "telemetry", ["level", "began_at", "device"])
    op.add_column(
        "watermarks", sa.Column("number", sa.Integer(), nullable=False, server_default="1")
    )
    op.execute(
        "UPDATE watermarks SET number = (SELECT count(*) FROM watermarks AS older "
        "WHERE older.device = watermarks.device AND (older.updated_at < watermarks.updated_at "
        "OR (older.updated_at = watermarks.updated_at AND older.epoch <= watermarks.epoch)))"
    )
    op.create_table(
        "retention",
        sa.Column("name", sa.String(32), nullable=False),
        sa.Column("reached", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_retention"),
    )
    op.create_table(
        "ingest_partitions",
        sa.Column("partition", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("partitions", sa.Integer(), nullable=False),
        sa.Column("holder", sa.String(128), nullable=False),
        sa.Column("broker_connected", sa.Boolean(), nullable=False),
        sa.Column("changes", sa.BigInteger(), nullable=False),
        sa.Column("beat_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("partition", name="pk_ingest_partitions"),
    )


def downgrade() -> None:
    op.drop_table("ingest_partitions")
    op.drop_table("retention")
    op.drop_column("watermarks", "number")
    op.drop_index("ix_telemetry_level", "telemetry")
    for name in ("level", "began_at"):
        op.drop_column("telemetry", name)
    op.drop_column("devices", "doubled_by")
    for name in reversed(_DEVICE_TIMES):
        op.drop_column("devices", name)

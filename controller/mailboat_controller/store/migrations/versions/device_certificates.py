"""What renewal, approval and run-time revocation of devices need to know."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    with op.batch_alter_table("devices") as devices:
        devices.add_column(sa.Column("next_public_key", sa.LargeBinary(), nullable=True))
    with op.batch_alter_table("enrolment_tokens") as tokens:
        # Tokens of before were for enrolment in one step.
        tokens.add_column(
            sa.Column("approval", sa.Boolean(), nullable=False, server_default=sa.false())
        )
    with op.batch_alter_table("enrolment_tokens") as tokens:
        tokens.alter_column("approval", server_default=None)
    op.create_table(
        "device_certificates",
        sa.Column("certificate_serial", sa.String(64), nullable=False),
        sa.Column("device", sa.String(63), nullable=False),
        sa.Column("public_key_sha256", sa.String(64), nullable=False),
        sa.Column("issued_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("superseded_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("certificate_serial", name="pk_device_certificates"),
    )
    op.create_index("ix_device_certificates_device", "device_certificates", ["device"])
    op.create_index("ix_device_certificates_key", "device_certificates", ["public_key_sha256"])
    op.create_index("ix_device_certificates_expires_at", "device_certificates", ["expires_at"])
    op.create_table(
        "session_ends",
        sa.Column("certificate_serial", sa.String(64), nullable=False),
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("ended_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("certificate_serial", name="pk_session_ends"),
    )
    op.create_table(
        "enrolment_requests",
        sa.Column("device", sa.String(63), nullable=False),
        sa.Column("token_sha256", sa.String(64), nullable=False),
        sa.Column("public_key", sa.LargeBinary(), nullable=False),
        sa.Column("hardware_class", sa.String(63), nullable=False),
        sa.Column("site", sa.String(63), nullable=False),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("token_by", sa.String(128), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("decided_by", sa.String(128), nullable=False),
        sa.Column("requested_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("device", name="pk_enrolment_requests"),
    )
    op.create_index("ix_enrolment_requests_expires_at", "enrolment_requests", ["expires_at"])
    _carry_over()


def _carry_over() -> None:
    """Certificates in force, so that those of devices revoked from here on reach the list."""
    op.execute(
        "INSERT INTO device_certificates (certificate_serial, device, public_key_sha256,"
        " issued_at, expires_at) SELECT certificate_serial, device, '', enrolled_at,"
        " certificate_expires_at FROM devices WHERE certificate_serial <> ''"
    )


def downgrade() -> None:
    for table in ("enrolment_requests", "session_ends", "device_certificates"):
        op.drop_table(table)
    with op.batch_alter_table("enrolment_tokens") as tokens:
        tokens.drop_column("approval")
    with op.batch_alter_table("devices") as devices:
        devices.drop_column("next_public_key")

"""What MLflow's webhooks told, and how many came."""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    op.create_table(
        "mlflow_notices",
        sa.Column(
            "number",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("delivery", sa.String(64), nullable=False),
        sa.Column("registered", sa.String(128), nullable=False),
        sa.Column("alias", sa.String(128), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_mlflow_notices"),
        sa.UniqueConstraint("delivery", name="uq_mlflow_notices_delivery"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "mlflow_counts",
        sa.Column("result", sa.String(16), nullable=False),
        sa.Column("times", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("result", name="pk_mlflow_counts"),
    )


def downgrade() -> None:
    op.drop_table("mlflow_counts")
    op.drop_table("mlflow_notices")

"""Which file holds the secret of a webhook: each secret has one of its own."""

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"


def upgrade() -> None:
    op.add_column("webhooks", sa.Column("secret_file", sa.String(100), nullable=True))
    op.execute("UPDATE webhooks SET secret_file = name || '.secret'")
    with op.batch_alter_table("webhooks") as webhooks:
        webhooks.alter_column("secret_file", existing_type=sa.String(100), nullable=False)


def downgrade() -> None:
    op.drop_column("webhooks", "secret_file")

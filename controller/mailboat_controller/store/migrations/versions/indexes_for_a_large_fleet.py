"""Indexes for what a large fleet made slow to ask."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    unread = sa.text("kind = 'unknown'")
    op.create_index(
        "ix_events_unread", "events", ["id"], sqlite_where=unread, postgresql_where=unread
    )
    op.create_index("ix_outcomes_digest_outcome", "outcomes", ["digest", "outcome"])
    op.create_index("ix_quarantine_topic", "quarantine", ["topic", "id"])
    op.create_index("ix_audit_subject", "audit", ["subject", "sequence"])


def downgrade() -> None:
    op.drop_index("ix_audit_subject", "audit")
    op.drop_index("ix_quarantine_topic", "quarantine")
    op.drop_index("ix_outcomes_digest_outcome", "outcomes")
    op.drop_index("ix_events_unread", "events")

"""What devices tell, summed up; and views for dashboards, which read no table of ours."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"

_KEY = (
    ("digest", 64),
    ("hardware_class", 63),
    ("site", 63),
    ("workload", 16),
    ("figure", 32),
    ("part", 64),
)
_VIEWS = {
    "v_devices": (
        "SELECT device, enrolment_number, hardware_class, site, revoked, online, enrolled_at, "
        "last_seen_at, presence_at, certificate_expires_at, manifest_counter, clock_offset_ms, "
        "doubled_at FROM devices"
    ),
    "v_releases": "SELECT digest, model, version, accepted_at FROM releases",
    "v_rollouts": (
        "SELECT name, model, version, digest, phase, wave + 1 AS waves_open, because, "
        "retry_epoch, created_at, started_at, completed_at, wave_opened_at, updated_at "
        "FROM rollouts"
    ),
    "v_outcomes": (
        "SELECT outcomes.digest, releases.model, releases.version, outcomes.device, "
        "devices.hardware_class, devices.site, outcomes.retry_epoch, outcomes.outcome, "
        "outcomes.code, outcomes.because, outcomes.exposed_at, outcomes.updated_at FROM outcomes "
        "LEFT JOIN releases ON releases.digest = outcomes.digest "
        "LEFT JOIN devices ON devices.device = outcomes.device"
    ),
    "v_events": (
        "SELECT events.id, events.device, devices.hardware_class, devices.site, events.kind, "
        "events.model, events.version, events.digest, events.retry_epoch, events.observed_at, "
        "events.received_at FROM events LEFT JOIN devices ON devices.device = events.device"
    ),
    "v_windows": (
        "SELECT telemetry.id, telemetry.device, devices.hardware_class, devices.site, "
        "telemetry.model, telemetry.version, telemetry.digest, telemetry.level, "
        "telemetry.began_at, telemetry.received_at, {figures} "
        "FROM telemetry LEFT JOIN devices ON devices.device = telemetry.device"
    ),
    "v_deliveries": (
        "SELECT deliveries.digest, releases.model, releases.version, deliveries.hardware_class, "
        "deliveries.outcome, deliveries.count AS deliveries, deliveries.fetched_bytes, "
        "deliveries.whole_bytes FROM deliveries "
        "LEFT JOIN releases ON releases.digest = deliveries.digest"
    ),
    "v_audit": "SELECT sequence, at, actor, action, subject, reason FROM audit",
}
_NUMBERS = ("seconds", "requests_ok", "requests_error", "requests_refused", "worker_restarts")


def upgrade() -> None:
    op.create_table(
        "fleet_sums",
        *(sa.Column(name, sa.String(length), nullable=False) for name, length in _KEY),
        sa.Column("amount", sa.Float(53), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint(*(name for name, _ in _KEY), name="pk_fleet_sums"),
    )
    op.create_index("ix_fleet_sums_updated_at", "fleet_sums", ["updated_at"])
    sqlite = op.get_bind().dialect.name == "sqlite"
    figures = ", ".join(_figure(name, sqlite=sqlite) for name in _NUMBERS)
    for name, query in _VIEWS.items():
        op.execute(f"CREATE VIEW {name} AS {query.format(figures=figures)}")


def downgrade() -> None:
    for name in reversed(_VIEWS):
        op.execute(f"DROP VIEW {name}")
    op.drop_index("ix_fleet_sums_updated_at", "fleet_sums")
    op.drop_table("fleet_sums")


def _figure(name: str, *, sqlite: bool) -> str:
    """A number of a window's content, in the words of each database."""
    if sqlite:
        return f"json_extract(telemetry.content, '$.{name}') AS {name}"
    return f"CAST(telemetry.content ->> '{name}' AS DOUBLE PRECISION) AS {name}"

"""The tables, as SQLAlchemy Core metadata. Migrations in ``migrations/`` bring a database here.

Instants are integer milliseconds since 1970 UTC. Facts that devices tell are append-only; only
watermarks, registries and the one row of a rollout are updated. Publishing writes no row per
device.
"""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
)

from mailboat_controller.store.table_names import metadata

# SQLite gives a rowid only to a column whose type is exactly INTEGER.
RowId = BigInteger().with_variant(Integer, "sqlite")


# Of an event that this program could not read and kept as it came; no EventKind has this name.
UNKNOWN_KIND = "unknown"


def _now(name: str, *, nullable: bool = False) -> Column[int]:
    return Column(name, BigInteger, nullable=nullable)


hardware_classes = Table(
    "hardware_classes",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("document", JSON, nullable=False),
    _now("updated_at"),
)

enrolment_tokens = Table(
    "enrolment_tokens",
    metadata,
    Column("token_sha256", String(64), primary_key=True),  # the token itself is never stored
    Column("hardware_class", String(63), nullable=False),
    Column("site", String(63), nullable=False),
    Column("labels", JSON, nullable=False),
    Column("uses_left", Integer, nullable=False),
    _now("expires_at"),
    _now("created_at"),
    Column("created_by", String(128), nullable=False),
    Column("approval", Boolean, nullable=False, default=False),  # a person compares fingerprints
)

# Enrolment numbers count up; waves use them as a roster, so they are never given twice.
devices = Table(
    "devices",
    metadata,
    Column("enrolment_number", RowId, primary_key=True, autoincrement=True),
    Column("device", String(63), nullable=False, unique=True),
    Column("hardware_class", String(63), nullable=False),
    Column("site", String(63), nullable=False),
    Column("labels", JSON, nullable=False),
    Column("public_key", LargeBinary, nullable=False),  # SubjectPublicKeyInfo, DER
    Column("next_public_key", LargeBinary, nullable=True),  # renewed with, not yet confirmed
    Column("certificate_serial", String(64), nullable=False),
    _now("certificate_expires_at"),
    Column("revoked", Boolean, nullable=False, default=False),
    _now("enrolled_at"),
    _now("last_seen_at", nullable=True),
    Column("online", Boolean, nullable=True),  # NULL = never heard of; unknown is not offline
    Column("session", BigInteger, nullable=False, default=0),
    _now("presence_at", nullable=True),  # when we heard of ``online``, by our clock
    # The device's clock less ours, from the report that was least on its way, and when that was.
    Column("clock_offset_ms", BigInteger, nullable=True),
    _now("clock_seen_at", nullable=True),
    # Two devices seem to have this id: when that last showed, and by what.
    _now("doubled_at", nullable=True),
    Column("doubled_by", String(64), nullable=True),
    Column("manifest_counter", BigInteger, nullable=False, default=0),
    Column("report", JSON, nullable=True),  # the newest ReportedState
    sqlite_autoincrement=True,
)
Index("ix_devices_hardware_class", devices.c.hardware_class)
Index("ix_devices_site", devices.c.site)
# Who came or went since somebody last looked; few do, so it costs little to keep.
Index("ix_devices_presence_at", devices.c.presence_at)

credentials = Table(
    "credentials",
    metadata,
    Column("certificate_serial", String(64), primary_key=True),
    Column("name", String(63), nullable=False),
    Column("kind", String(16), nullable=False),  # ci | operator | dashboard
    _now("expires_at"),
    Column("revoked", Boolean, nullable=False, default=False),
    _now("created_at"),
)

# An append-only table is several times faster than a clustered (device, sequence) key; the
# watermark beside it removes duplicates and is the acknowledgement.
events = Table(
    "events",
    metadata,
    Column("id", RowId, primary_key=True, autoincrement=True),
    Column("device", String(63), nullable=False),
    Column("epoch", String(16), nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("event_id", String(128), nullable=False),
    Column("kind", String(32), nullable=False),
    Column("model", String(63), nullable=True),
    Column("version", String(64), nullable=True),
    Column("digest", String(64), nullable=True),
    Column("retry_epoch", Integer, nullable=False, default=0),
    Column("content", JSON, nullable=False),
    _now("observed_at"),
    _now("received_at"),
)
Index("ix_events_device", events.c.device, events.c.id)
# What a newer program may be able to read: looked for at every start.
_unread = events.c.kind == UNKNOWN_KIND
Index("ix_events_unread", events.c.id, sqlite_where=_unread, postgresql_where=_unread)

telemetry = Table(
    "telemetry",
    metadata,
    Column("id", RowId, primary_key=True, autoincrement=True),
    Column("device", String(63), nullable=False),
    Column("epoch", String(16), nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("model", String(63), nullable=False),
    Column("version", String(64), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("content", JSON, nullable=False),
    _now("received_at"),
    # When it began by our clock: ``started_at`` less the device's clock offset, where that is
    # credible, else when it came.
    Column("began_at", BigInteger, nullable=False, default=0, server_default="0"),
    # 0 as the device sent it, 1 an hour's windows merged, 2 a day's; those have no sequence.
    Column("level", Integer, nullable=False, default=0, server_default="0"),
)
Index("ix_telemetry_received_at", telemetry.c.received_at)
Index("ix_telemetry_level", telemetry.c.level, telemetry.c.began_at, telemetry.c.device)

watermarks = Table(
    "watermarks",
    metadata,
    Column("device", String(63), primary_key=True),
    Column("epoch", String(16), primary_key=True),
    Column("events", BigInteger, nullable=False, default=0),
    Column("telemetry", BigInteger, nullable=False, default=0),
    _now("updated_at"),
    # Epochs of a device in the order they began, from 1: an older one that goes on is another
    # device's, or a journal out of a backup.
    Column("number", Integer, nullable=False, default=1, server_default="1"),
)

# How far the thinning of old rows has come, and who takes the messages in.
retention = Table(
    "retention",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("reached", BigInteger, nullable=False),
)

ingest_partitions = Table(
    "ingest_partitions",
    metadata,
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("partitions", Integer, nullable=False),
    Column("holder", String(128), nullable=False),  # host and process
    Column("broker_connected", Boolean, nullable=False),
    Column("changes", BigInteger, nullable=False),  # batches that a rollout may decide otherwise on
    _now("beat_at"),
)

# The fold of a device's events for one release: one verdict per device, retry epochs apart.
outcomes = Table(
    "outcomes",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("device", String(63), primary_key=True),
    Column("retry_epoch", Integer, primary_key=True),
    Column("outcome", String(16), nullable=False),  # refused | exposed | ok | failed | returned
    Column("code", String(64), nullable=False, default=""),
    Column("because", Text, nullable=False, default=""),
    _now("exposed_at", nullable=True),
    _now("updated_at"),
)
Index("ix_outcomes_device", outcomes.c.device)
# Completed rollouts wait for bad news alone, and there are many of them.
Index("ix_outcomes_digest_outcome", outcomes.c.digest, outcomes.c.outcome)

quarantine = Table(
    "quarantine",
    metadata,
    Column("id", RowId, primary_key=True, autoincrement=True),
    Column("topic", String(512), nullable=False),
    Column("code", String(64), nullable=False),
    Column("problem", Text, nullable=False),
    Column("payload", LargeBinary, nullable=False),  # the first kilobytes
    _now("received_at"),
)

Index("ix_quarantine_topic", quarantine.c.topic, quarantine.c.id)

trust_roles = Table(
    "trust_roles",
    metadata,
    Column("role", String(128), primary_key=True),  # root, targets, snapshot, timestamp, release-…
    Column("version", Integer, primary_key=True),
    Column("content", LargeBinary, nullable=False),
    _now("received_at"),
)

releases = Table(
    "releases",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("model", String(63), nullable=False),
    Column("version", String(64), nullable=False),
    Column("document", LargeBinary, nullable=False),
    _now("accepted_at"),
)
Index("ix_releases_model_version", releases.c.model, releases.c.version, unique=True)

rollouts = Table(
    "rollouts",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("model", String(63), nullable=False),
    Column("version", String(64), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("plan", JSON, nullable=False),
    Column("phase", String(16), nullable=False),
    Column("wave", Integer, nullable=False),  # index of the newest open wave; -1 = none yet
    # Per class and open wave: {"class": [{"upto": …, "roster": …, "pilots": […]}, …]}
    Column("opened", JSON, nullable=False),
    Column("because", Text, nullable=False),
    # Raised when a release that failed is approved again under a new rollout name.
    Column("retry_epoch", Integer, nullable=False, default=0),
    _now("wave_opened_at", nullable=True),
    _now("resumed_at", nullable=True),
    _now("started_at", nullable=True),
    _now("completed_at", nullable=True),
    # Starts and completions in the order they happened; a clock may be set back. Of two rollouts
    # the one that started later is the newer; the last completed and approved one is current.
    Column("start_number", Integer, nullable=True),
    Column("completion_number", Integer, nullable=True),
    _now("created_at"),
    _now("updated_at"),
)
Index("ix_rollouts_model", rollouts.c.model)

# Which release all devices of a class run for a model: worked out from the completed rollouts,
# written down so that its history is in the audit log and its retry epoch never goes down.
assignments = Table(
    "assignments",
    metadata,
    Column("hardware_class", String(63), primary_key=True),
    Column("model", String(63), primary_key=True),
    Column("version", String(64), nullable=True),
    Column("digest", String(64), nullable=True),
    Column("retry_epoch", Integer, nullable=False, default=0),
)

manifests = Table(
    "manifests",
    metadata,
    Column("hardware_class", String(63), primary_key=True),
    Column("counter", BigInteger, nullable=False),
    Column("bundle", LargeBinary, nullable=False),
    Column("etag", String(64), nullable=False),
    # sha256 over what the bundle says apart from counter and issue time: unchanged = not sent
    Column("content_digest", String(64), nullable=False),
    _now("published_at"),
)

outbox = Table(
    "outbox",
    metadata,
    Column("id", RowId, primary_key=True, autoincrement=True),
    Column("topic", String(512), nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("qos", Integer, nullable=False),
    Column("retain", Boolean, nullable=False),
    Column("correlation_data", LargeBinary, nullable=True),  # of the request this answers
    _now("created_at"),
)

submissions = Table(
    "submissions",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("sender", String(128), nullable=False),
    Column("reply", JSON, nullable=False),
    _now("received_at"),
)

audit = Table(
    "audit",
    metadata,
    Column("sequence", RowId, primary_key=True, autoincrement=True),
    _now("at"),
    Column("actor", String(128), nullable=False),
    Column("action", String(64), nullable=False),
    Column("subject", String(256), nullable=False),
    Column("reason", Text, nullable=False, default=""),
    Column("details", JSON, nullable=False),
    Column("previous_hash", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
    sqlite_autoincrement=True,
)
Index("ix_audit_subject", audit.c.subject, audit.c.sequence)
Index("ix_audit_actor", audit.c.actor, audit.c.sequence)
Index("ix_audit_action", audit.c.action, audit.c.sequence)

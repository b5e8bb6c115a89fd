"""The tables of devices' certificates and of enrolments that wait for a person, on the metadata of
`tables`."""

from sqlalchemy import JSON, BigInteger, Column, Index, LargeBinary, String, Table

from mailboat_controller.store.table_names import metadata

# Every certificate a device was ever given, so that each can be revoked while it is in force.
device_certificates = Table(
    "device_certificates",
    metadata,
    Column("certificate_serial", String(64), primary_key=True),
    Column("device", String(63), nullable=False),
    Column("public_key_sha256", String(64), nullable=False),
    Column("issued_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    # When the device had put another key in the place of this one's; NULL = its key counts.
    Column("superseded_at", BigInteger, nullable=True),
)
Index("ix_device_certificates_device", device_certificates.c.device)
Index("ix_device_certificates_key", device_certificates.c.public_key_sha256)
Index("ix_device_certificates_expires_at", device_certificates.c.expires_at)

# Revoked certificates whose holders' sessions at the broker have been ended.
session_ends = Table(
    "session_ends",
    metadata,
    Column("certificate_serial", String(64), primary_key=True),
    Column("name", String(63), nullable=False),
    Column("ended_at", BigInteger, nullable=False),
)

# Enrolments whose kit asks for a person's approval, from the device's first request on.
enrolment_requests = Table(
    "enrolment_requests",
    metadata,
    Column("device", String(63), primary_key=True),
    Column("token_sha256", String(64), nullable=False),
    Column("public_key", LargeBinary, nullable=False),  # SubjectPublicKeyInfo, DER
    Column("hardware_class", String(63), nullable=False),
    Column("site", String(63), nullable=False),
    Column("labels", JSON, nullable=False),
    Column("token_by", String(128), nullable=False),
    Column("state", String(16), nullable=False),  # pending | approved | rejected
    Column("decided_by", String(128), nullable=False, default=""),
    Column("requested_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
)
Index("ix_enrolment_requests_expires_at", enrolment_requests.c.expires_at)

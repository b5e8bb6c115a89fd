"""Devices' certificates and keys: given, renewed, superseded, and which of them the broker must
refuse."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, func, insert, select, update

from mailboat_controller.store import devices, tables
from mailboat_controller.store.device_tables import device_certificates, session_ends
from mailboat_controller.store.devices import DeviceRow
from mailboat_controller.store.instants import from_ms, to_ms
from mailboat_schemas.errors import Conflict

_certificates = device_certificates
_devices = tables.devices
_credentials = tables.credentials


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedCertificate:
    """One in force by its dates, which nobody may use any more."""

    serial: str  # lower-case hex
    name: str
    expires_at: datetime
    revoked: bool  # False: superseded, its holder goes on with another key


def key_sha256(public_key: bytes) -> str:
    return hashlib.sha256(public_key).hexdigest()


def record(
    tx: Connection,
    device: str,
    *,
    serial: str,
    public_key: bytes,
    issued_at: datetime,
    expires_at: datetime,
) -> None:
    """Note a certificate that the device is about to be given."""
    tx.execute(
        insert(_certificates).values(
            certificate_serial=serial,
            device=device,
            public_key_sha256=key_sha256(public_key),
            issued_at=to_ms(issued_at),
            expires_at=to_ms(expires_at),
        )
    )
    devices.set_certificate(tx, device, serial=serial, expires_at=expires_at)


def count_since(tx: Connection, device: str, since: datetime) -> int:
    c = _certificates.c
    those = (c.device == device, c.issued_at >= to_ms(since))
    return tx.execute(select(func.count()).select_from(_certificates).where(*those)).scalar_one()


def refuse_key_of_another(tx: Connection, device: str, public_key: bytes) -> None:
    """
    Raises:
        Conflict: another device has, or had, this key.
    """
    c = _certificates.c
    digest = key_sha256(public_key)
    other = tx.execute(
        select(c.device).where(c.public_key_sha256 == digest, c.device != device).limit(1)
    ).scalar()
    if other is not None:
        raise Conflict(
            f"The key that {device} asks a certificate for belongs to another device.",
            next_step="make a key on each device; if nobody copied one, revoke both devices.",
        )


def offer_key(tx: Connection, device: DeviceRow, public_key: bytes) -> None:
    """A renewal with a new key: both keys count until the device confirms the new one."""
    following = None if public_key == device.public_key else public_key
    tx.execute(
        update(_devices).where(_devices.c.device == device.device).values(next_public_key=following)
    )


def confirm_key(tx: Connection, device: DeviceRow, public_key: bytes, at: datetime) -> bool:
    """The device has used its new key: the old one, and its certificates, count no more.

    Returns:
        False when there was nothing to do, as for a confirmation that is sent again.
    """
    if device.next_public_key is None or public_key != device.next_public_key:
        return False
    tx.execute(
        update(_devices)
        .where(_devices.c.device == device.device)
        .values(public_key=public_key, next_public_key=None)
    )
    c = _certificates.c
    tx.execute(
        update(_certificates)
        .where(
            c.device == device.device,
            c.public_key_sha256 != key_sha256(public_key),
            c.superseded_at.is_(None),
        )
        .values(superseded_at=to_ms(at))
    )
    return True


def refused(tx: Connection, now: datetime) -> tuple[RefusedCertificate, ...]:
    """Every certificate that must not be accepted although its dates would allow it, by serial.

    Those that have ended are left out: the handshake refuses them by itself.
    """
    c, d, k = _certificates.c, _devices.c, _credentials.c
    theirs = tx.execute(
        select(c.certificate_serial, c.device, c.expires_at, d.revoked)
        .join(_devices, c.device == d.device)
        .where(c.expires_at > to_ms(now), d.revoked.is_(True) | c.superseded_at.is_not(None))
    ).fetchall()
    others = tx.execute(
        select(k.certificate_serial, k.name, k.expires_at, k.revoked).where(
            k.expires_at > to_ms(now), k.revoked.is_(True)
        )
    ).fetchall()
    found = [
        RefusedCertificate(
            serial=serial, name=name, expires_at=from_ms(expires_at), revoked=revoked
        )
        for serial, name, expires_at, revoked in (*theirs, *others)
    ]
    return tuple(sorted(found, key=lambda each: each.serial))


def sessions_to_end(tx: Connection, now: datetime) -> dict[str, list[str]]:
    """Names whose session at the broker must be ended -> the serials that this is about."""
    ended = set(tx.execute(select(session_ends.c.certificate_serial)).scalars())
    names: dict[str, list[str]] = {}
    for certificate in refused(tx, now):
        if certificate.revoked and certificate.serial not in ended:
            names.setdefault(certificate.name, []).append(certificate.serial)
    return names


def note_session_ended(tx: Connection, name: str, serials: Sequence[str], at: datetime) -> None:
    rows = [
        {"certificate_serial": serial, "name": name, "ended_at": to_ms(at)} for serial in serials
    ]
    tx.execute(insert(session_ends), rows)

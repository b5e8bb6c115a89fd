"""The registry: which devices there are, whose keys they hold, and when they were last heard of."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple

from sqlalchemy import (
    Connection,
    Row,
    Text,
    and_,
    case,
    cast,
    func,
    insert,
    not_,
    or_,
    select,
    update,
)

from mailboat_controller.store import tables
from mailboat_controller.store.instants import from_ms, to_ms
from mailboat_controller.store.site_tables import sites
from mailboat_schemas.errors import Conflict, NotFound
from mailboat_schemas.reports import ModelPhase

NAMES_AT_ONCE = 500  # in one query; databases bound the number of parameters

_devices = tables.devices
_INSTANTS = (
    "certificate_expires_at",
    "enrolled_at",
    "last_seen_at",
    "presence_at",
    "clock_seen_at",
    "doubled_at",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRow:
    enrolment_number: int
    device: str
    hardware_class: str
    site: str
    labels: Mapping[str, str]
    public_key: bytes  # SubjectPublicKeyInfo, DER
    next_public_key: bytes | None  # of a renewal that the device has not confirmed yet
    certificate_serial: str
    certificate_expires_at: datetime
    revoked: bool
    enrolled_at: datetime
    last_seen_at: datetime | None
    online: bool | None  # None: never heard of, which is not offline
    session: int
    presence_at: datetime | None  # when ``online`` was told
    clock_offset_ms: int | None  # the device's clock less ours
    clock_seen_at: datetime | None
    doubled_at: datetime | None  # when it last showed that two devices seem to have this id
    doubled_by: str | None
    manifest_counter: int
    report: Mapping[str, Any] | None

    def has_key(self, public_key: bytes) -> bool:
        """Both count while a renewal is under way, so that an answer that is lost locks nobody
        out."""
        return public_key in (self.public_key, self.next_public_key)


class Member(NamedTuple):
    """What a rollout needs to know of a device; light enough to load a whole class."""

    device: str
    enrolment_number: int
    labels: Mapping[str, str]
    revoked: bool
    seen_at_ms: int | None = None  # by the controller's clock


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassCount:
    """Devices of one class; the last three add up to ``enrolled`` without the revoked ones."""

    hardware_class: str
    enrolled: int
    revoked: int
    online: int
    offline: int
    unknown: int


def enrol(
    tx: Connection,
    *,
    device: str,
    hardware_class: str,
    site: str,
    labels: Mapping[str, str],
    public_key: bytes,
    at: datetime,
    number: int | None = None,
) -> int:
    """Take a device in, or take it in again with the same key; returns its enrolment number.

    A name stays with its first key: a token does not say for which name it is, so whoever holds
    one must not be able to take a name over. The certificate follows with `set_certificate`,
    because the number stands in it.

    Args:
        number: the one it was given before this database was lost.

    Raises:
        Conflict: the name belongs to another key, or to a revoked device.
    """
    known = by_name(tx, device)
    place = {"hardware_class": hardware_class, "site": site, "labels": dict(labels)}
    if known is None:
        row = insert(_devices).values(
            device=device,
            public_key=public_key,
            certificate_serial="",
            certificate_expires_at=0,
            revoked=False,
            enrolled_at=to_ms(at),
            session=0,
            manifest_counter=0,
            **place,
            **({} if number is None else {"enrolment_number": number}),
        )
        given: int = tx.execute(row.returning(_devices.c.enrolment_number)).scalar_one()
        return given
    refuse_other_key(tx, device, public_key)
    tx.execute(update(_devices).where(_devices.c.device == device).values(place))
    return known.enrolment_number


def continue_numbers(tx: Connection) -> None:
    """After numbers were given explicitly: those that follow go on from the highest. SQLite does
    so by itself."""
    if tx.dialect.name == "postgresql":
        highest = tx.execute(select(func.max(_devices.c.enrolment_number))).scalar()
        if highest is not None:
            sequence = func.pg_get_serial_sequence(_devices.name, "enrolment_number")
            tx.execute(select(func.setval(sequence, highest)))


def refuse_other_key(tx: Connection, device: str, public_key: bytes) -> None:
    """
    Raises:
        Conflict: the name belongs to another key, or to a revoked device.
    """
    known = by_name(tx, device)
    if known is not None and (known.revoked or not known.has_key(public_key)):
        because = "is revoked" if known.revoked else "is enrolled with another key"
        raise Conflict(
            f"The device name {device} {because}.",
            next_step="enrol under another name; a name stays with its key.",
        )


def set_certificate(tx: Connection, device: str, *, serial: str, expires_at: datetime) -> None:
    tx.execute(
        update(_devices)
        .where(_devices.c.device == device)
        .values(certificate_serial=serial, certificate_expires_at=to_ms(expires_at))
    )


def names(tx: Connection) -> frozenset[str]:
    return frozenset(tx.execute(select(_devices.c.device)).scalars())


def by_name(tx: Connection, device: str) -> DeviceRow | None:
    row = tx.execute(select(_devices).where(_devices.c.device == device)).first()
    return None if row is None else _read(row)


def lock(tx: Connection, names: Collection[str]) -> dict[str, DeviceRow]:
    """The devices of these names that there are, nobody else's to change before this transaction
    ends. In one order for everybody, so that no two wait for each other."""
    found: dict[str, DeviceRow] = {}
    ordered = sorted(names)
    for first in range(0, len(ordered), NAMES_AT_ONCE):
        some = _devices.c.device.in_(ordered[first : first + NAMES_AT_ONCE])
        query = select(_devices).where(some).order_by(_devices.c.device).with_for_update()
        found |= {row.device: _read(row) for row in tx.execute(query)}
    return found


def get(tx: Connection, device: str) -> DeviceRow:
    """
    Raises:
        NotFound: no such device.
    """
    row = by_name(tx, device)
    if row is None:
        raise NotFound(
            f"There is no device {device}.", next_step="`mailboat device list` shows all devices."
        )
    return row


def list_page(
    tx: Connection,
    *,
    after: int = 0,
    limit: int = 100,
    hardware_class: str | None = None,
    site: str | None = None,
    prefix: str = "",
) -> tuple[DeviceRow, ...]:
    """Devices by enrolment number, those above ``after``; their names begin with ``prefix``."""
    query = select(_devices).where(_devices.c.enrolment_number > after)
    if hardware_class is not None:
        query = query.where(_devices.c.hardware_class == hardware_class)
    if site is not None:
        query = query.where(_devices.c.site == site)
    if prefix:
        query = query.where(_devices.c.device.startswith(prefix, autoescape=True))
    rows = tx.execute(query.order_by(_devices.c.enrolment_number).limit(limit))
    return tuple(_read(row) for row in rows)


def members(tx: Connection, hardware_class: str) -> tuple[Member, ...]:
    """Every device of a class, revoked ones too, by enrolment number."""
    c = _devices.c
    rows = tx.execute(
        # The labels as text: thousands of devices share a few sets of them, parsed once each.
        select(c.device, c.enrolment_number, cast(c.labels, Text), c.revoked, c.last_seen_at)
        .where(c.hardware_class == hardware_class)
        .order_by(c.enrolment_number)
    )
    return tuple(
        Member(device, number, _labels(labels), revoked, seen_at)
        for device, number, labels, revoked, seen_at in rows.fetchall()
    )


def committed_to(tx: Connection, digest: str, names: Sequence[str]) -> frozenset[str]:
    """Which of these devices say in their newest report that they run this release for good."""
    c = _devices.c
    found: set[str] = set()
    for first in range(0, len(names), NAMES_AT_ONCE):
        some = c.device.in_(names[first : first + NAMES_AT_ONCE])
        for device, report in tx.execute(select(c.device, c.report).where(some)):
            models = [] if report is None else report["models"]
            if any(
                model["serving_digest"] == digest and model["phase"] == ModelPhase.COMMITTED
                for model in models
            ):
                found.add(device)
    return frozenset(found)


def serving(tx: Connection, digest: str) -> tuple[str, ...]:
    """Devices in force that say in their newest report that they run this release, by name."""
    c = _devices.c
    rows = tx.execute(
        select(c.device, c.report)
        .where(c.revoked.is_(False), cast(c.report, Text).contains(digest))
        .order_by(c.device)
    )
    return tuple(
        row.device
        for row in rows
        if any(model["serving_digest"] == digest for model in row.report["models"])
    )


def way_is_open() -> Any:
    """Of a device whose site is cut off, what was told before says nothing of now: it is neither
    online nor offline (`presence.py`)."""
    return _devices.c.site.not_in(select(sites.c.name).where(sites.c.connected.is_(False)))


def count_by_class(tx: Connection) -> tuple[ClassCount, ...]:
    c = _devices.c
    live = c.revoked.is_(False)
    known = way_is_open()

    def counted(condition: Any) -> Any:
        return func.sum(case((condition, 1), else_=0))

    rows = tx.execute(
        select(
            c.hardware_class,
            func.count().label("enrolled"),
            counted(c.revoked.is_(True)).label("revoked"),
            counted(and_(live, known, c.online.is_(True))).label("online"),
            counted(and_(live, known, c.online.is_(False))).label("offline"),
            counted(and_(live, or_(not_(known), c.online.is_(None)))).label("unknown"),
        )
        .group_by(c.hardware_class)
        .order_by(c.hardware_class)
    )
    return tuple(ClassCount(**row._mapping) for row in rows)


def revoke(tx: Connection, device: str) -> bool:
    """Cut a device off for good; False when it was revoked already.

    Raises:
        NotFound: no such device.
    """
    if get(tx, device).revoked:
        return False
    tx.execute(
        update(_devices).where(_devices.c.device == device).values(revoked=True, online=False)
    )
    return True


@lru_cache(maxsize=1024)
def _labels(text: str) -> Mapping[str, str]:
    return MappingProxyType(json.loads(text))


def _instant(instant_ms: int | None) -> datetime | None:
    return None if instant_ms is None else from_ms(instant_ms)


def _read(row: Row[Any]) -> DeviceRow:
    content = dict(row._mapping)
    for name in _INSTANTS:
        content[name] = _instant(content[name])
    return DeviceRow(**content)

"""Holds and pins of single devices, the counter of the newest order, and operators' labels."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, Row, delete, func, insert, select

from mailboat_controller.store.instants import from_ms, to_ms
from mailboat_controller.store.override_tables import device_orders, operator_labels, overrides
from mailboat_controller.store.upsert import upsert
from mailboat_schemas.device_orders import Hold, Pin

HOLD, PIN = "hold", "pin"
DEVICES_AT_ONCE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class OverrideRow:
    device: str
    kind: str
    model: str  # empty: every model
    version: str | None
    digest: str | None
    by: str
    reason: str
    at: datetime
    expires_at: datetime

    @property
    def hold(self) -> Hold:
        return Hold(
            model=self.model or None,
            by=self.by,
            reason=self.reason,
            expires=int(self.expires_at.timestamp()),
        )

    @property
    def pin(self) -> Pin | None:
        if self.version is None or self.digest is None:
            return None
        return Pin(
            model=self.model,
            version=self.version,
            digest=self.digest,
            by=self.by,
            reason=self.reason,
            expires=int(self.expires_at.timestamp()),
        )


def put(tx: Connection, row: OverrideRow) -> None:
    """In the place of the one of its device, kind and model."""
    remove(tx, row.device, row.kind, row.model)
    content = {name: getattr(row, name) for name in OverrideRow.__slots__}
    content |= {"at": to_ms(row.at), "expires_at": to_ms(row.expires_at)}
    tx.execute(insert(overrides).values(**content))


def remove(tx: Connection, device: str, kind: str, model: str) -> bool:
    c = overrides.c
    these = delete(overrides).where(c.device == device, c.kind == kind, c.model == model)
    return bool(tx.execute(these).rowcount)


def of_device(tx: Connection, device: str) -> tuple[OverrideRow, ...]:
    """Those that expired are in it until they are forgotten."""
    c = overrides.c
    query = select(overrides).where(c.device == device).order_by(c.kind, c.model)
    return tuple(map(_read, tx.execute(query)))


def every(tx: Connection) -> Mapping[str, tuple[OverrideRow, ...]]:
    """By device; `DEVICES_MAX` bounds how many."""
    found: dict[str, tuple[OverrideRow, ...]] = {}
    c = overrides.c
    for row in map(_read, tx.execute(select(overrides).order_by(c.device, c.kind, c.model))):
        found[row.device] = (*found.get(row.device, ()), row)
    return found


def count_devices(tx: Connection) -> int:
    return tx.execute(select(func.count(overrides.c.device.distinct()))).scalar_one()


def forget_expired(tx: Connection, now: datetime) -> int:
    return tx.execute(delete(overrides).where(overrides.c.expires_at < to_ms(now))).rowcount


def newest_counter(tx: Connection, device: str) -> int:
    query = select(device_orders.c.counter).where(device_orders.c.device == device)
    return tx.execute(query).scalar() or 0


def note_counter(tx: Connection, device: str, counter: int) -> None:
    row = upsert(tx, device_orders).values(device=device, counter=counter)
    key = [device_orders.c.device]
    tx.execute(row.on_conflict_do_update(index_elements=key, set_={"counter": counter}))


def labels_of(tx: Connection, devices: Collection[str]) -> dict[str, dict[str, str]]:
    """What operators noted, by device."""
    found: dict[str, dict[str, str]] = {}
    ordered = sorted(devices)
    for first in range(0, len(ordered), DEVICES_AT_ONCE):
        some = operator_labels.c.device.in_(ordered[first : first + DEVICES_AT_ONCE])
        for row in tx.execute(select(operator_labels).where(some)):
            found.setdefault(row.device, {})[row.name] = row.value
    return found


def set_label(tx: Connection, device: str, name: str, value: str | None) -> None:
    """Args: value: None takes it away."""
    c = operator_labels.c
    tx.execute(delete(operator_labels).where(c.device == device, c.name == name))
    if value is not None:
        tx.execute(insert(operator_labels).values(device=device, name=name, value=value))


def _read(row: Row[tuple[object, ...]]) -> OverrideRow:
    content = dict(row._mapping)
    return OverrideRow(
        **content | {"at": from_ms(content["at"]), "expires_at": from_ms(content["expires_at"])}
    )

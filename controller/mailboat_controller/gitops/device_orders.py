"""What a declared Hold or Pin comes to, device by device."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from mailboat_controller.explaining.selection import select
from mailboat_controller.gitops.differences import Difference
from mailboat_controller.gitops.kinds import Hold, Pin
from mailboat_controller.overrides.orders import DEVICES_MAX, TooManyOverrides, approved_digest
from mailboat_controller.presence import Reach
from mailboat_controller.store import gitops, overrides
from mailboat_controller.store.gitops import DocumentRow
from mailboat_controller.store.instants import from_ms, to_ms
from mailboat_controller.store.overrides import HOLD, PIN, OverrideRow
from mailboat_controller.store.transaction import Transaction
from mailboat_schemas import selectors
from mailboat_schemas.errors import ConfigurationInvalid, Conflict

VALID_FOR_MAX = timedelta(hours=366 * 24)  # as when a person orders it: docs/pins.md
DEVICES_SHOWN_MAX = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceOrders:
    """``missing`` get the order, from ``leaving`` it is taken back; ``model`` and ``left_model``
    are the ones it is of now and was of before, "" for every model. ``named`` are all whom it is
    for; ``ended`` says that there is nothing to order any more."""

    kind: str
    model: str
    left_model: str
    named: tuple[str, ...]
    missing: tuple[str, ...]
    leaving: tuple[str, ...]
    standing: tuple[str, ...]
    ended: str = ""

    @property
    def differences(self) -> tuple[Difference, ...]:
        if not self.missing and not self.leaving:
            return ()
        before, after = _shown(self.standing), _shown(self.named)
        return (Difference(field="devices", before=before, after=after),)


def orders_of(
    tx: Transaction, document: Hold | Pin | None, owned: DocumentRow | None, now: datetime
) -> DeviceOrders:
    """
    Args:
        document: None: it is declared no more. owned: what the set ordered before.

    Raises:
        Conflict: an order that somebody else gave stands for one of the devices; the pinned
            release is not approved. NotFound: there is no such release.
        ConfigurationInvalid: it would stand for too long. TooManyOverrides.
    """
    before = {} if owned is None else owned.document["spec"]
    kind = _kind(owned.kind if document is None and owned is not None else document)
    left_model = before.get("model") or ""
    model = left_model if document is None else document.spec.model or ""
    every = overrides.every(tx)
    stands = {
        (device, each.model): each
        for device, rows in every.items()
        for each in rows
        if each.kind == kind and each.expires_at > now
    }
    mine = () if owned is None else tuple(owned.devices)
    standing = tuple(
        device for device in mine if _is_as_ordered(stands.get((device, left_model)), before)
    )
    named: tuple[str, ...] = ()
    ended = ""
    missing: tuple[str, ...] = ()
    if document is not None and document.spec.until <= now:
        ended = f"it ended at {document.spec.until.isoformat()}; the document may go"
    elif document is not None:
        _refuse_too_long(document, now)
        digest = _digest(tx, document)
        named = _named(tx, document, now)
        held = set(standing) if left_model == model else set()
        missing = tuple(
            device
            for device in named
            if not _is_ordered(stands.get((device, model)), document, digest, device in held)
        )
    gone = left_model != model
    leaving = tuple(device for device in standing if gone or device not in named)
    if leaving and owned is not None:
        kept = _of_others(tx, owned, left_model)
        leaving = tuple(device for device in leaving if device not in kept)
    return DeviceOrders(
        kind=kind,
        model=model,
        left_model=left_model,
        named=named,
        missing=missing,
        leaving=leaving,
        standing=standing,
        ended=ended,
    )


def _kind(of: Hold | Pin | str | None) -> str:
    return PIN if of == "Pin" or isinstance(of, Pin) else HOLD


def _named(tx: Transaction, document: Hold | Pin, now: datetime) -> tuple[str, ...]:
    wanted = selectors.parse(document.spec.selector)
    # Presence is not asked for (`kinds.py`), so it does not matter whom we can hear.
    rows = select(tx, wanted, Reach(), now, limit=DEVICES_MAX + 1)
    if len(rows) > DEVICES_MAX:
        raise TooManyOverrides(
            f"{document.kind} {document.metadata.name} names more than {DEVICES_MAX} devices."
        )
    return tuple(row.device for row in rows if not row.revoked)


def _is_as_ordered(row: OverrideRow | None, spec: Mapping[str, Any]) -> bool:
    """Whether what stands is what the set ordered: somebody may have put theirs in its place."""
    if row is None:
        return False
    until = _stored(datetime.fromisoformat(spec["until"]))
    ordered = (spec["reason"], until, spec.get("version"))
    return (row.reason, row.expires_at, row.version) == ordered


def _of_others(tx: Transaction, owned: DocumentRow, model: str) -> set[str]:
    """Devices for which another document says the same, such as one that was given another name."""
    return {
        device
        for row in gitops.documents(tx).values()
        if row.kind == owned.kind
        and row.name != owned.name
        and (row.document["spec"].get("model") or "") == model
        for device in row.devices
    }


def _is_ordered(
    row: OverrideRow | None, document: Hold | Pin, digest: str | None, mine: bool
) -> bool:
    """Whether exactly this stands for a device.

    Raises:
        Conflict: something else stands that the set did not order.
    """
    if row is None:
        return False
    spec = document.spec
    same = (row.digest, row.reason, row.expires_at) == (digest, spec.reason, _stored(spec.until))
    if not same and not mine:
        raise Conflict(
            f"A {row.kind} by {row.by} stands for device {row.device}: {row.reason}.",
            next_step=f"take that back (`mailboat device {_TAKE_BACK[row.kind]} {row.device}`), or "
            "leave the device out of the selector.",
        )
    return same


_TAKE_BACK = {HOLD: "release-hold", PIN: "unpin"}


def _stored(until: datetime) -> datetime:
    return from_ms(to_ms(until))


def _digest(tx: Transaction, document: Hold | Pin) -> str | None:
    if isinstance(document, Hold):
        return None
    return approved_digest(tx, document.spec.model, document.spec.version)


def _refuse_too_long(document: Hold | Pin, now: datetime) -> None:
    if document.spec.until > now + VALID_FOR_MAX:
        raise ConfigurationInvalid(
            f"{document.kind} {document.metadata.name} would stand until "
            f"{document.spec.until.isoformat()}, which is more than {VALID_FOR_MAX.days} days.",
            next_step="give it a nearer end: what is forgotten keeps a device unmended.",
        )


def _shown(devices: tuple[str, ...]) -> list[str] | str:
    """Names, or how many they are."""
    few = len(devices) <= DEVICES_SHOWN_MAX
    return list(devices) if few else f"{len(devices)} devices"

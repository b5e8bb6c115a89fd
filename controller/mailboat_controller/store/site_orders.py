"""What sites ordered by themselves, as their devices tell once the line is back: an entry in the
audit log for each order, however many devices tell of it.

Told by devices, not proved: the order itself stays at the site. A device that makes orders up fills
no log, and keeps nobody else's out of it.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mailboat_controller.store import audit
from mailboat_controller.store.audit import AuditRow, Wanted
from mailboat_controller.store.devices import DeviceRow
from mailboat_controller.store.transaction import Transaction
from mailboat_schemas.documents.site_key import KEY_NAME_CHARS_MAX, KEY_NAME_PATTERN
from mailboat_schemas.events import Event, EventKind
from mailboat_schemas.site_orders import INSTANT_SECONDS_MAX, ITEMS_MAX, SiteHold, SiteRollback

ACTION = "site.order"
# Entries in an hour. People do not change their minds more often; one device that was cut off for
# weeks may have as many to tell at once.
OF_ONE_DEVICE_PER_HOUR_MAX = 24
OF_ONE_SITE_PER_HOUR_MAX = 240  # so many devices would have to lie together
RECENT_MAX = OF_ONE_SITE_PER_HOUR_MAX  # entries of one site that a new one is compared with


class _Told(BaseModel):
    """The evidence, as an entry keeps it; a device leaves out what makes it too long."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    counter: int = Field(ge=1, lt=1 << 63)
    key: str = Field(max_length=KEY_NAME_CHARS_MAX, pattern=KEY_NAME_PATTERN)
    keyid: str = Field(pattern=r"^[0-9a-f]{64}$")
    issued: int = Field(default=0, ge=0, le=INSTANT_SECONDS_MAX)
    holds: tuple[SiteHold, ...] = Field(default=(), max_length=ITEMS_MAX)
    rollbacks: tuple[SiteRollback, ...] = Field(default=(), max_length=ITEMS_MAX)


def note_all(
    tx: Transaction, told: Iterable[tuple[DeviceRow, Sequence[Event]]], now: datetime
) -> None:
    """Enter what was not known yet."""
    recent: dict[str, list[AuditRow]] = {}  # by subject, read once for all that came together
    for row, events in told:
        for event in events:
            if event.kind is EventKind.SITE_ORDERED:
                _note(tx, row, event, now, recent)


def newest(tx: Transaction, site: str) -> AuditRow | None:
    """The entry of the order that was told last."""
    return audit.newest(tx, _subject(site), ACTION)


def _note(
    tx: Transaction,
    row: DeviceRow,
    event: Event,
    now: datetime,
    recent: dict[str, list[AuditRow]],
) -> None:
    try:
        said = _Told.model_validate(event.evidence)
    except ValidationError:
        return  # the event itself is kept; as an order it would say nothing
    subject = _subject(row.site)
    if subject not in recent:
        recent[subject] = list(_recent(tx, subject))
    known = recent[subject]
    if any(_is_of(said, each) for each in known) or _are_many(known, row.device, now):
        return
    audit.append(
        tx,
        at=now,
        actor=subject,
        action=ACTION,
        subject=subject,
        reason=event.because,
        details={**said.model_dump(mode="json"), "told_by": row.device, "code": event.code},
    )
    known += _recent(tx, subject, limit=1)


def _recent(tx: Transaction, subject: str, limit: int = RECENT_MAX) -> Sequence[AuditRow]:
    return audit.newest_page(tx, limit=limit, wanted=Wanted(action=ACTION), subjects=[subject])


def _is_of(said: _Told, entry: AuditRow) -> bool:
    details = entry.details
    return (said.keyid, said.counter) == (details.get("keyid"), details.get("counter"))


def _are_many(known: Sequence[AuditRow], device: str, now: datetime) -> bool:
    this_hour = [each for each in known if each.at > now - timedelta(hours=1)]
    of_device = sum(each.details.get("told_by") == device for each in this_hour)
    return of_device >= OF_ONE_DEVICE_PER_HOUR_MAX or len(this_hour) >= OF_ONE_SITE_PER_HOUR_MAX


def _subject(site: str) -> str:
    return f"site:{site}"

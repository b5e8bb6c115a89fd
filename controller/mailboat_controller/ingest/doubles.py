"""Two devices with one id: a copied card, or a machine set up again from an image.

They have one key, so every signature holds; what gives them away is that they do not know of each
other. The rows of one are never taken for the other's in silence: a batch that contradicts what
is stored is set aside and not acknowledged, and whatever shows is told with the next step.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from mailboat_controller.ingest.batch_reading import Batch
from mailboat_controller.ingest.watermark_rule import DeviceStreams
from mailboat_controller.store import audit, device_signs, events
from mailboat_controller.store.devices import DeviceRow
from mailboat_controller.store.transaction import Transaction
from mailboat_controller.store.watermarks import Watermark
from mailboat_schemas.errors import NotPermitted
from mailboat_schemas.events import Event, EventKind

ACTION = "device.doubled"
OLDER_OUTBOX = "older-outbox"
OTHER_EVENTS = "other-events"
SESSION_TAKEN = "session-taken"
SESSION_TAKEN_CODE = "E-SESSION-TAKEN"  # agent: link/flapping.py
TELL_EVERY = timedelta(days=1)  # of one device, into the audit log
NOTE_EVERY = timedelta(minutes=1)  # in the registry
NEXT_STEP = (
    "look for a second machine with this identity (a copied card, an image restored twice) and "
    "stop it; then revoke the device and enrol both machines under names of their own."
)
_BECAUSE = {
    OLDER_OUTBOX: "events came from an outbox that the device had given up for a newer one",
    OTHER_EVENTS: "events came under numbers that other events of the same outbox have",
    SESSION_TAKEN: "the device says that somebody takes its session at the broker",
}


class DeviceDoubled(NotPermitted):
    """A batch contradicts what the same outbox has told before."""

    code = "E-DEVICE-DOUBLED"

    def __init__(self, device: str, sequence: int) -> None:
        super().__init__(
            f"Device {device} tells another event {sequence} than the one that is stored.",
            next_step=NEXT_STEP,
        )


def refuse_other_events(
    tx: Transaction, device: DeviceStreams, batch: Batch[Event], reached: int
) -> None:
    """
    Args:
        reached: the watermark. What is at or below it has come before, and must be the same.

    Raises:
        DeviceDoubled: it is not.
    """
    again = [row for row in batch.rows if row.sequence <= reached and isinstance(row, Event)]
    if not again:
        return
    name = device.row.device
    if batch.epoch not in device.stored:
        device.stored[batch.epoch] = events.identities(tx, name, batch.epoch)
    stored = device.stored[batch.epoch]
    for event in again:
        known = stored.get(event.sequence)
        if known is not None and known != events.identity(event):
            raise DeviceDoubled(name, event.sequence)


def sign_of_two(epoch: str, marks: dict[str, Watermark], fresh: Sequence[object]) -> str | None:
    """What in rows that were never seen before shows a second device."""
    if fresh and marks[epoch].number < max(mark.number for mark in marks.values()):
        return OLDER_OUTBOX
    if any(
        isinstance(row, Event) and row.kind is EventKind.SECURITY and row.code == SESSION_TAKEN_CODE
        for row in fresh
    ):
        return SESSION_TAKEN
    return None


def tell(tx: Transaction, row: DeviceRow, sign: str, now: datetime) -> bool:
    """Note it in the registry, and now and then in the audit log; whether it was told there."""
    if row.doubled_at is not None and now - row.doubled_at < NOTE_EVERY:
        return False
    device_signs.set_doubled(tx, row.device, by=sign, at=now)
    last = audit.newest(tx, row.device, ACTION)
    if last is not None and now - last.at < TELL_EVERY:
        return False
    audit.append(
        tx,
        at=now,
        actor="controller",
        action=ACTION,
        subject=row.device,
        reason=f"{_BECAUSE[sign]}: two devices may have this id; {NEXT_STEP}",
        details={"sign": sign},
    )
    return True

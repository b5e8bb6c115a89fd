"""That a device says more than it may, told to people."""

from datetime import datetime

from mailboat_controller.store import audit, devices
from mailboat_controller.store.transaction import Transaction

FLOODING_ACTION = "device.flooding"


def tell(tx: Transaction, device: str, count: int, now: datetime) -> None:
    """Into the audit log, if the device is one of ours.

    Args:
        count: messages that were ignored since it was told last.
    """
    if devices.by_name(tx, device) is not None:
        audit.append(
            tx,
            at=now,
            actor="controller",
            action=FLOODING_ACTION,
            subject=device,
            reason=f"it says more than it may: {count} messages were not heard; they stay in "
            "its outbox and come again",
            details={"ignored": count},
        )

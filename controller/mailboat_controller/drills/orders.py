"""Ordering rollback drills: a part of the one order that stands for a device.

Recorded, audited and queued in one transaction. A device makes the drill of an order once, whatever
is repeated; it is answered when the device has told how it ended.
"""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from mailboat_controller.device_orders import next_counter, queue_order
from mailboat_controller.store import audit, devices, drills
from mailboat_controller.store.drills import DrillOrderRow
from mailboat_controller.store.engine import Store
from mailboat_controller.store.transaction import Transaction
from mailboat_schemas.device_orders import DRILLS_MAX, OVERRIDE_REASON_CHARS_MAX, DeviceDesired
from mailboat_schemas.errors import Conflict, NotFound

DEVICES_MAX = 1000  # that are to drill by order: each is a retained message at the broker


class TooManyDrills(Conflict):
    code = "E-DRILLS"

    def __init__(self, what: str) -> None:
        super().__init__(
            what,
            next_step="wait until some are answered, or take them back (`mailboat drill cancel`); "
            "for a whole fleet give the class or its policy a rule with `drill_every_days`.",
        )


class DrillOrders:
    """From any thread. `Overrides.run` says again what stands, drills too."""

    def __init__(
        self,
        store: Store,
        sign: Callable[[DeviceDesired], bytes],
        fleet: str,
        *,
        now: Callable[[], datetime],
        queued: Callable[[], None],
    ) -> None:
        """
        Args:
            sign: the envelope's bytes, signed by the director.
            queued: called when something waits in the outbox.
        """
        self._store = store
        self._sign = sign
        self._fleet = fleet
        self._now = now
        self._queued = queued

    def start(
        self,
        device: str,
        order: str,
        model: str | None,
        *,
        actor: str,
        reason: str,
        valid: timedelta,
    ) -> DrillOrderRow:
        """
        Raises:
            NotFound: no such device. Conflict: revoked, or too many drills wait.
        """
        now = self._now()
        with self._store.transaction() as tx:
            if devices.get(tx, device).revoked:
                raise Conflict(
                    f"Device {device} is revoked; the broker lets it hear nothing.",
                    next_step="nothing; it installs nothing any more.",
                )
            drills.forget_expired(tx, now)
            if len(drills.standing(tx, device, now)) >= DRILLS_MAX:
                raise TooManyDrills(f"{DRILLS_MAX} drills wait for device {device}.")
            waiting = drills.devices_waiting(tx, now)
            if device not in waiting and len(waiting) >= DEVICES_MAX:
                raise TooManyDrills(f"Drills wait for {DEVICES_MAX} devices.")
            row = DrillOrderRow(
                order=order,
                device=device,
                model=model or "",
                by=actor,
                reason=reason[:OVERRIDE_REASON_CHARS_MAX],
                at=now,
                expires_at=now + valid,
            )
            drills.put(tx, row)
            details = {"order": order, "model": model, "expires": row.expires_at.isoformat()}
            self._say(tx, device, "device.drill", actor, reason, details)
        self._queued()
        return row

    def cancel(self, device: str, *, actor: str, reason: str) -> int:
        """Take back what waits; a drill that runs is given up. How many orders that were.

        Raises:
            NotFound: no such device, or no drill waits for it.
        """
        with self._store.transaction() as tx:
            devices.get(tx, device)
            count = drills.cancel(tx, device)
            if not count:
                raise NotFound(
                    f"No drill waits for device {device}.",
                    next_step=f"`mailboat drill status {device}` shows those there were.",
                )
            self._say(tx, device, "device.cancel-drill", actor, reason, {"orders": count})
        self._queued()
        return count

    def _say(
        self,
        tx: Transaction,
        device: str,
        action: str,
        actor: str,
        reason: str,
        details: Mapping[str, object],
    ) -> None:
        now = self._now()
        audit.append(
            tx,
            at=now,
            actor=actor,
            action=action,
            subject=device,
            reason=reason,
            details=dict(details),
        )
        counter = next_counter(tx, device, now)
        queue_order(tx, device, counter, fleet=self._fleet, sign=self._sign, now=now)

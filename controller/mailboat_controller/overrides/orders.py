"""What a person orders for one device: hold it, pin it, note something of it.

Recorded, audited and queued in one transaction. The device hears of it when it is there; until
then `explain` says that it has not confirmed it.
"""

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

import structlog

from mailboat_controller.device_orders import (
    devices_with_documents,
    next_counter,
    queue_order,
)
from mailboat_controller.drills.orders import DrillOrders
from mailboat_controller.reconcile import Reconciler
from mailboat_controller.store import audit, devices, drills, overrides, releases
from mailboat_controller.store.engine import Store
from mailboat_controller.store.overrides import HOLD, PIN, OverrideRow
from mailboat_controller.store.transaction import Transaction
from mailboat_controller.trust import held_trust
from mailboat_schemas.device_orders import OVERRIDE_REASON_CHARS_MAX, OVERRIDES_MAX
from mailboat_schemas.errors import Conflict, MailboatError, NotFound

DEVICES_MAX = 1000  # with an override of their own: each is a retained message at the broker
LABELS_MAX = 16  # of operators, on one device
ASSERT_SECONDS = 600.0  # a broker may have lost what it retained

_TAKEN_BACK = {HOLD: "release-hold", PIN: "unpin"}
_log = structlog.get_logger(__name__)


class TooManyOverrides(Conflict):
    code = "E-OVERRIDES"

    def __init__(self, what: str) -> None:
        super().__init__(
            what, next_step="take back what is over (`mailboat get devices -l held`, `-l pinned`)."
        )


class Overrides:
    """From any thread; ``run`` is a loop of the leader."""

    def __init__(
        self,
        store: Store,
        reconciler: Reconciler,
        fleet: str,
        *,
        now: Callable[[], datetime],
        queued: Callable[[], None],
    ) -> None:
        """Args: queued: called when something waits in the outbox."""
        self._store = store
        self._reconciler = reconciler
        self._fleet = fleet
        self._now = now
        self._queued = queued
        self.drills = DrillOrders(store, reconciler.sign_order, fleet, now=now, queued=queued)

    def hold(
        self, device: str, model: str | None, *, actor: str, reason: str, valid: timedelta
    ) -> None:
        """
        Raises:
            NotFound: no such device. Conflict: revoked, or too many overrides.
        """
        until = self._now() + valid
        with self._store.transaction() as tx:
            self.put(tx, device, HOLD, model, None, actor=actor, reason=reason, until=until)
        self._queued()

    def pin(
        self,
        device: str,
        model: str,
        version: str,
        *,
        actor: str,
        reason: str,
        valid: timedelta,
    ) -> None:
        """
        Raises:
            NotFound: no such device or release. Conflict: the release is not approved.
        """
        until = self._now() + valid
        with self._store.transaction() as tx:
            self.put(tx, device, PIN, model, version, actor=actor, reason=reason, until=until)
        self._queued()

    def take_back(
        self, device: str, kind: str, model: str | None, *, actor: str, reason: str
    ) -> None:
        """
        Raises:
            NotFound: no such device, or nothing of that kind stands for it.
        """
        with self._store.transaction() as tx:
            self.remove(tx, device, kind, model, actor=actor, reason=reason)
        self._queued()

    def remove(
        self, tx: Transaction, device: str, kind: str, model: str | None, *, actor: str, reason: str
    ) -> None:
        """As `take_back`, in a transaction of the caller, who calls `told` after it."""
        devices.get(tx, device)
        before = _standing(tx, device, kind, model or "")
        if not overrides.remove(tx, device, kind, model or ""):
            about = f" for {model}" if model else ""
            raise NotFound(
                f"No {kind} stands for device {device}{about}.",
                next_step=f"`mailboat explain {device}` shows what stands.",
            )
        self._record(
            tx, device, _TAKEN_BACK[kind], actor, reason, {"model": model, "before": before}
        )
        self._queue(tx, device, next_counter(tx, device, self._now()))

    def told(self) -> None:
        """Orders of a transaction that is over wait for devices."""
        self._queued()

    def label(
        self, device: str, changes: Mapping[str, str | None], *, actor: str, reason: str
    ) -> Mapping[str, str]:
        """Set or, with None, take away operators' labels; returns all there are then.

        Raises:
            NotFound: no such device. Conflict: too many, or the device itself has such a label.
        """
        with self._store.transaction() as tx:
            own = devices.get(tx, device).labels
            taken = sorted(n for n, value in changes.items() if value is not None and n in own)
            if taken:
                raise Conflict(
                    f"Device {device} has a label {taken[0]!r} of its own.",
                    next_step="choose another name; a device's own labels are in its "
                    "enrolment and agent.toml.",
                )
            before = overrides.labels_of(tx, [device]).get(device, {})
            for name, value in changes.items():
                overrides.set_label(tx, device, name, value)
            found = overrides.labels_of(tx, [device]).get(device, {})
            if len(found) > LABELS_MAX:
                raise TooManyOverrides(f"Device {device} would have {len(found)} labels.")
            self._record(
                tx,
                device,
                "label",
                actor,
                reason,
                {"changes": dict(changes), "before": before, "after": found},
            )
        return found

    async def run(self) -> None:
        while True:
            await asyncio.sleep(ASSERT_SECONDS)
            try:
                if await asyncio.to_thread(self.assert_standing):
                    self._queued()
            except MailboatError as error:
                _log.warning("orders for devices wait", problem=str(error))

    def assert_standing(self) -> int:
        """Say again what stands, under the counter it has; how many devices that concerns."""
        now = self._now()
        with self._store.transaction() as tx:
            overrides.forget_expired(tx, now)
            drills.forget_expired(tx, now)
            found = {*overrides.every(tx), *drills.devices_waiting(tx, now)}
            found |= devices_with_documents(tx)
            return sum([self._say_again(tx, device) for device in sorted(found)])

    def _say_again(self, tx: Transaction, device: str) -> bool:
        """One that cannot be said, such as a device document that is too large beside the rest,
        silences no other."""
        try:
            self._queue(tx, device, overrides.newest_counter(tx, device))
        except MailboatError as error:
            _log.error("an order cannot be said again", device=device, problem=str(error))
            return False
        return True

    def put(
        self,
        tx: Transaction,
        device: str,
        kind: str,
        model: str | None,
        version: str | None,
        *,
        actor: str,
        reason: str,
        until: datetime,
    ) -> None:
        """As `hold` and `pin`, in a transaction of the caller, who calls `told` after it."""
        digest = None
        if kind == PIN:
            digest = approved_digest(tx, model or "", version or "")
        now = self._now()
        if devices.get(tx, device).revoked:
            raise Conflict(
                f"Device {device} is revoked; the broker lets it hear nothing.",
                next_step="nothing; it installs nothing any more.",
            )
        overrides.forget_expired(tx, now)
        row = OverrideRow(
            device=device,
            kind=kind,
            model=model or "",
            version=version,
            digest=digest,
            by=actor,
            reason=reason[:OVERRIDE_REASON_CHARS_MAX],
            at=now,
            expires_at=until,
        )
        before = _standing(tx, device, kind, row.model)
        overrides.put(tx, row)
        if len(overrides.of_device(tx, device)) > OVERRIDES_MAX:
            raise TooManyOverrides(f"More than {OVERRIDES_MAX} orders would stand for {device}.")
        if overrides.count_devices(tx) > DEVICES_MAX:
            raise TooManyOverrides(f"Orders stand for {DEVICES_MAX} devices.")
        self._record(tx, device, kind, actor, reason, {**_told(row), "before": before})
        counter = next_counter(tx, device, now)
        self._queue(tx, device, counter)

    def _queue(self, tx: Transaction, device: str, counter: int) -> None:
        queue_order(
            tx,
            device,
            counter,
            fleet=self._fleet,
            sign=self._reconciler.sign_order,
            now=self._now(),
        )

    def _record(
        self,
        tx: Transaction,
        device: str,
        what: str,
        actor: str,
        reason: str,
        details: Mapping[str, object],
    ) -> None:
        audit.append(
            tx,
            at=self._now(),
            actor=actor,
            action=f"device.{what}",
            subject=device,
            reason=reason,
            details=dict(details),
        )


def _standing(tx: Transaction, device: str, kind: str, model: str) -> dict[str, object] | None:
    """What stood of that kind before, as the audit log keeps it."""
    rows = overrides.of_device(tx, device)
    found = next((row for row in rows if (row.kind, row.model) == (kind, model)), None)
    return None if found is None else _told(found)


def _told(row: OverrideRow) -> dict[str, object]:
    return {
        "model": row.model,
        "version": row.version,
        "expires": row.expires_at.isoformat(),
    }


def approved_digest(tx: Transaction, model: str, version: str) -> str:
    """
    Raises:
        NotFound: no such release. Conflict: it is not approved.
    """
    release = releases.by_version(tx, model, version)
    if release is None:
        raise NotFound(
            f"There is no release {model} {version}.",
            next_step="`mailboat release list` shows those there are.",
        )
    if not held_trust.read(tx).approved(model, version, release.digest):
        raise Conflict(
            f"{model} {version} is not approved, so no device may run it.",
            next_step="pin to an approved release; a pin does not go beyond an approval.",
        )
    return release.digest

"""Asking a device for its log: one signed, retained order, and taking it back when it is over.

A device that is away finds the order when it comes back. It stands until the answer is complete or
its time is over; then a newer one without a request takes its place, because an empty retained
message would not cross a bridge that is down.
"""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog

from mailboat_controller.device_orders import next_counter, queue_order
from mailboat_controller.store import audit, devices, log_requests
from mailboat_controller.store.engine import Store
from mailboat_controller.store.log_requests import LogRequestRow
from mailboat_controller.store.transaction import Transaction
from mailboat_schemas.device_orders import DeviceDesired
from mailboat_schemas.errors import Conflict, MailboatError

ACTION = "device.logs"
LOOK_SECONDS = 2.0
ASSERT_SECONDS = 60.0  # a broker may have lost what it retained; few orders stand at a time

_log = structlog.get_logger(__name__)


class TooManyLogRequests(Conflict):
    """Each is a retained message at the broker."""

    code = "E-LOG-REQUESTS"

    def __init__(self) -> None:
        super().__init__(
            f"{log_requests.REQUESTS_OPEN_MAX} requests for logs wait for their devices.",
            next_step="wait until some are answered or expire; ask for fewer hours.",
        )


class LogOrders:
    """`ask` from any thread; `run` is a loop of the leader."""

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

    def ask(
        self,
        device: str,
        request: str,
        *,
        actor: str,
        reason: str,
        since: datetime | None,
        follow_seconds: int,
        valid: timedelta,
    ) -> LogRequestRow:
        """Record a request, audit it and queue the order; an earlier one to the device ends.

        Raises:
            NotFound: no such device. Conflict: it is revoked, or too many requests wait.
        """
        now = self._now()
        with self._store.transaction() as tx:
            if devices.get(tx, device).revoked:
                raise Conflict(
                    f"Device {device} is revoked; the broker lets it hear nothing.",
                    next_step="read what it has told: `mailboat device show`.",
                )
            if log_requests.count_open(tx) >= log_requests.REQUESTS_OPEN_MAX:
                raise TooManyLogRequests
            counter = next_counter(tx, device, now)
            log_requests.withdraw(tx, device, counter - 1, now)
            row = LogRequestRow(
                request=request,
                device=device,
                asked_by=actor,
                reason=reason,
                asked_at=now,
                expires_at=now + valid,
                since=0 if since is None else max(0, int(since.timestamp() * 1000)),
                follow_seconds=follow_seconds,
                counter=counter,
                withdrawn=False,
                lines=0,
                bytes=0,
                withheld=0,
                answered_at=None,
                completed_at=None,
            )
            log_requests.put(tx, row)
            audit.append(
                tx,
                at=now,
                actor=actor,
                action=ACTION,
                subject=device,
                reason=reason,
                details={"request": request, "follow_seconds": follow_seconds, "since": row.since},
            )
            self._queue(tx, row.device, row.counter)
        self._queued()
        return row

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        asserted_at = loop.time()
        while True:
            again = loop.time() - asserted_at >= ASSERT_SECONDS
            asserted_at = loop.time() if again else asserted_at
            try:
                if await asyncio.to_thread(self.look, assert_open=again):
                    self._queued()
            except MailboatError as error:
                _log.warning("orders for logs wait", problem=str(error))
            await asyncio.sleep(LOOK_SECONDS)

    def look(self, *, assert_open: bool = False) -> int:
        """Take back what is over; if asked to, say again what stands and forget what is old.

        Returns: how many were queued.
        """
        now = self._now()
        with self._store.read() as tx:
            rows = log_requests.open_orders(tx)
            old = assert_open and log_requests.has_old(tx, now)
        if not old and not any(
            assert_open or row.state(now) in ("complete", "expired") for row in rows
        ):
            return 0
        queued = 0
        with self._store.transaction() as tx:
            log_requests.forget_old(tx, now)
            for row in log_requests.open_orders(tx):
                if row.state(now) in ("complete", "expired"):
                    counter = next_counter(tx, row.device, now)
                    log_requests.withdraw(tx, row.device, counter, now)
                    self._queue(tx, row.device, counter)
                elif assert_open:
                    self._queue(tx, row.device, row.counter)
                else:
                    continue
                queued += 1
        return queued

    def _queue(self, tx: Transaction, device: str, counter: int) -> None:
        queue_order(
            tx,
            device,
            counter,
            fleet=self._fleet,
            sign=self._sign,
            now=self._now(),
        )

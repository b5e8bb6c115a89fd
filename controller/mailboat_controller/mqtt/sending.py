"""The outbox to the broker: a row is forgotten when the broker has confirmed it."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime

import structlog

from mailboat_controller.metrics.process_metrics import Metrics
from mailboat_controller.mqtt.link import Link
from mailboat_controller.reconcile import Reconciler
from mailboat_controller.store import outbox
from mailboat_controller.store.engine import Store
from mailboat_controller.store.outbox import OutboxRow
from mailboat_controller.wake import Wake
from mailboat_schemas.errors import NotPermitted, Transient

ROWS_AT_ONCE = 100
LOOK_SECONDS = 5.0
RETRY_SECONDS = 1.0
REFUSED_RETRY_SECONDS = 30.0  # until somebody has mended the broker's access rules
ASSERT_SECONDS = 3600.0  # a broker may lose what it retained while we stay connected

_log = structlog.get_logger(__name__)


class Sender:
    """Drains the outbox, for ever; queues the retained manifests again when that is due."""

    def __init__(
        self,
        *,
        store: Store,
        reconciler: Reconciler,
        metrics: Metrics,
        queued: Wake,
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._reconciler = reconciler
        self._metrics = metrics
        self._queued = queued
        self._now = now
        self._assert_due = True

    def connected(self) -> None:
        """The broker may have restarted without its retained messages: queue them again."""
        self._assert_due = True
        self._queued.set()

    async def run(self, link: Link) -> None:
        loop = asyncio.get_running_loop()
        asserted_at = loop.time()
        while True:
            await link.until_connected()
            pause = 0.0
            try:
                if self._assert_due or loop.time() - asserted_at > ASSERT_SECONDS:
                    self._assert_due, asserted_at = False, loop.time()
                    await asyncio.to_thread(self._reconciler.assert_retained, self._now())
                pause = await self.drain(link)
            except Transient as error:
                _log.warning("the outbox waits", problem=str(error))
                pause = RETRY_SECONDS
            if pause:
                await asyncio.sleep(pause)
            else:
                await self._queued.wait(LOOK_SECONDS)

    async def drain(self, link: Link) -> float:
        """Send until nothing waits; returns how many seconds to stay away from what is left.

        Raises:
            Transient: the connection or the database is away.
        """
        while True:
            rows = await asyncio.to_thread(self._pending)
            if not rows:
                return 0.0
            results = await asyncio.gather(
                *(self._send(link, row) for row in rows), return_exceptions=True
            )
            done = [row.id for row, result in zip(rows, results, strict=True) if result is True]
            await asyncio.to_thread(self._remove, done)
            for result in results:
                if isinstance(result, BaseException):
                    raise result
            if not done:
                return REFUSED_RETRY_SECONDS

    async def _send(self, link: Link, row: OutboxRow) -> bool:
        """Whether the row can be forgotten."""
        try:
            await link.publish(
                row.topic,
                row.payload,
                qos=row.qos,
                retain=row.retain,
                correlation_data=row.correlation_data,
            )
        except NotPermitted as error:
            self._metrics.count_refused()
            _log.error("the broker refused a message", topic=row.topic, problem=str(error))
            # A reply to CI is worth nothing later; a manifest must get there.
            return not row.retain
        return True

    def _pending(self) -> Sequence[OutboxRow]:
        with self._store.read() as tx:
            return outbox.pending(tx, ROWS_AT_ONCE)

    def _remove(self, ids: Sequence[int]) -> None:
        if ids:
            with self._store.transaction() as tx:
                outbox.remove(tx, ids)

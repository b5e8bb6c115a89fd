"""Messages from the broker into the database: committed first, acknowledged after."""

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import datetime

import structlog

from mailboat_controller.ingest.batch import Ingested, ingest
from mailboat_controller.metrics import Metrics
from mailboat_controller.mqtt.incoming import Incoming
from mailboat_controller.mqtt.link import Link
from mailboat_controller.releases.admission import Admission
from mailboat_controller.store import quarantine
from mailboat_controller.store.engine import Store
from mailboat_controller.wake import Wake
from mailboat_schemas.errors import Transient
from mailboat_schemas.reports import Ack

RETRY_SECONDS = 1.0
UNEXPECTED_CODE = "E-UNEXPECTED"

_log = structlog.get_logger(__name__)


class Receiver:
    """Takes batch after batch from the link, for ever."""

    def __init__(
        self,
        *,
        store: Store,
        admission: Admission,
        fleet: str,
        metrics: Metrics,
        changed: Wake,
        queued: Wake,
        sign_ack: Callable[[Ack], bytes],
        now: Callable[[], datetime],
    ) -> None:
        """
        Args:
            sign_ack: the envelope's bytes, signed by the director.
            changed: set when a rollout may decide otherwise.
            queued: set when something waits in the outbox.
        """
        self._store = store
        self._admission = admission
        self._fleet = fleet
        self._metrics = metrics
        self._changed = changed
        self._queued = queued
        self._sign_ack = sign_ack
        self._now = now

    async def run(self, link: Link) -> None:
        while True:
            deliveries = await link.batch()
            results = await self._committed([delivery.message for delivery in deliveries])
            # A crash before this line brings the batch again; taking it twice changes nothing.
            link.acknowledge(deliveries)
            acks = [each for result in results for each in result.acks]
            signed = await asyncio.to_thread(self._signed, [ack for _, ack in acks])
            sent = [
                ack
                for (topic, ack), envelope in zip(acks, signed, strict=True)
                if link.send(topic, envelope)
            ]
            self._metrics.count_acks(len(sent), sum(ack.rewind for ack in sent))
            for result in results:
                if result.changed:
                    self._changed.set()

    def _signed(self, acks: Sequence[Ack]) -> list[bytes]:
        return [self._sign_ack(ack) for ack in acks]

    async def _committed(self, messages: Sequence[Incoming]) -> list[Ingested]:
        """Take a batch, again and again while the database cannot."""
        while True:
            try:
                return await asyncio.to_thread(self.take, messages)
            except Transient as error:
                _log.warning("messages wait for the database", problem=str(error))
                await asyncio.sleep(RETRY_SECONDS)

    def take(self, messages: Sequence[Incoming]) -> list[Ingested]:
        """Commit a batch and answer its submissions. One message that breaks us is set aside, or
        it would come again for ever and nothing behind it.

        Raises:
            Transient: nothing, or only a part, was taken; take all of it again.
        """
        started = time.monotonic()
        try:
            results = [self._take(messages)]
        except Transient:
            raise
        except Exception:  # noqa: BLE001  see above; whatever it is, it is found message by message
            _log.exception("a batch failed; taking its messages one by one")
            results = [self._take_alone(message) for message in messages]
        for result in results:
            self._metrics.count_batch(result, time.monotonic() - started)
        return results

    def _take(self, messages: Sequence[Incoming]) -> Ingested:
        with self._store.transaction() as tx:
            ingested = ingest(tx, messages, fleet=self._fleet, now=self._now())
        for message in ingested.submissions:
            self._admission.submit_message(message, self._now())
            self._changed.set()
            self._queued.set()
        return ingested

    def _take_alone(self, message: Incoming) -> Ingested:
        try:
            return self._take([message])
        except Transient:
            raise
        except Exception as error:  # noqa: BLE001  whatever it is, it must not come again for ever
            with self._store.transaction() as tx:
                quarantine.put(
                    tx,
                    topic=message.topic,
                    code=UNEXPECTED_CODE,
                    problem=repr(error),
                    payload=message.payload,
                    at=self._now(),
                )
                quarantine.trim(tx, [message.topic])
            return Ingested(
                acks=(),
                changed=False,
                submissions=(),
                events={},
                windows=0,
                quarantined={UNEXPECTED_CODE: 1},
            )

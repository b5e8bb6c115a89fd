"""Messages from the broker into the database: committed first, acknowledged after."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType

import structlog

from mailboat_controller.ingest.batch import Ingested, ingest
from mailboat_controller.ingest.failure_lines import FailureLines
from mailboat_controller.ingest.flood import Admitted, FloodGate, FloodLimits
from mailboat_controller.metrics.process_metrics import Metrics
from mailboat_controller.mqtt.held_acks import HeldAcks
from mailboat_controller.mqtt.inbox import Delivery
from mailboat_controller.mqtt.incoming import Incoming
from mailboat_controller.mqtt.link import Link
from mailboat_controller.releases.admission import Admission
from mailboat_controller.sites import bridge_news
from mailboat_controller.sites.flapping import Flapping
from mailboat_controller.store import quarantine
from mailboat_controller.store.engine import Store
from mailboat_controller.wake import Wake
from mailboat_schemas.errors import Transient
from mailboat_schemas.reports import Ack

RETRY_SECONDS = 1.0
# How soon what a flooding device last said of itself is looked at again, if nobody says anything.
WAITING_LOOK_SECONDS = 1.0
UNEXPECTED_CODE = "E-UNEXPECTED"

_log = structlog.get_logger(__name__)


class Receiver:
    """Takes batch after batch from the link, for ever."""

    def __init__(
        self,
        *,
        store: Store,
        admission: Admission | None,
        fleet: str,
        metrics: Metrics,
        changed: Wake,
        queued: Wake,
        sign_ack: Callable[[Ack], bytes],
        now: Callable[[], datetime],
        gate: FloodGate | None = None,
        owns: Callable[[str], bool] = lambda _topic: True,
    ) -> None:
        """
        Args:
            admission: None where no submissions are heard.
            gate: how much one device may say; by default the usual limits.
            owns: whether the messages of a topic are ours; the others are acknowledged alone.
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
        self._gate = FloodGate(FloodLimits()) if gate is None else gate
        self._owns = owns
        self._flapping = Flapping()
        self._failure_lines = FailureLines()
        self._acks = HeldAcks()
        self.changes = 0  # batches that a rollout may decide otherwise on

    async def run(self, link: Link) -> None:
        while True:
            deliveries = await self._next(link)
            told = [each.message for each in deliveries]
            await self._note_bridges([each for each in told if _is_of_a_bridge(each)])
            heard = [each for each in told if not _is_of_a_bridge(each) and self._owns(each.topic)]
            admitted = self._gate.admit(heard, self._now())
            self._metrics.count_ignored(admitted.ignored)
            results = []
            if admitted.messages or admitted.flooding:
                results = await self._committed(admitted)
            # A crash before this line brings the batch again; taking it twice changes nothing.
            link.acknowledge(deliveries)
            for result in results:
                self._acks.add(result.acks, time.monotonic())
            acks = self._acks.due(time.monotonic(), more_waits=link.waiting)
            signed = await asyncio.to_thread(self._signed, [ack for _, ack in acks])
            sent = [
                ack
                for (topic, ack), envelope in zip(acks, signed, strict=True)
                if link.send(topic, envelope)
            ]
            self._metrics.count_acks(len(sent), sum(ack.rewind for ack in sent))
            for result in results:
                if result.changed:
                    self.changes += 1
                    self._changed.set()

    async def _next(self, link: Link) -> list[Delivery]:
        """The next batch; none when what had to wait may have room by now."""
        if self._gate.waiting:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WAITING_LOOK_SECONDS):
                    return await link.batch()
            return []
        return await link.batch()

    async def _note_bridges(self, messages: Sequence[Incoming]) -> None:
        while messages:
            try:
                await asyncio.to_thread(
                    bridge_news.take, self._store, messages, self._now(), self._flapping
                )
                messages = ()
            except Transient as error:
                _log.warning("news of sites wait for the database", problem=str(error))
                await asyncio.sleep(RETRY_SECONDS)

    def _signed(self, acks: Sequence[Ack]) -> list[bytes]:
        return [self._sign_ack(ack) for ack in acks]

    async def _committed(self, admitted: Admitted) -> list[Ingested]:
        """Take a batch, again and again while the database cannot."""
        while True:
            try:
                return await asyncio.to_thread(self.take, admitted.messages, admitted.flooding)
            except Transient as error:
                _log.warning("messages wait for the database", problem=str(error))
                await asyncio.sleep(RETRY_SECONDS)

    def take(
        self,
        messages: Sequence[Incoming],
        flooding: Mapping[str, int] = MappingProxyType({}),
    ) -> list[Ingested]:
        """Commit a batch and answer its submissions. One message that breaks us is set aside, or
        it would come again for ever and nothing behind it.

        Raises:
            Transient: nothing, or only a part, was taken; take all of it again.
        """
        started = time.monotonic()
        try:
            results = [self._take(messages, flooding)]
        except Transient:
            raise
        except Exception:  # noqa: BLE001  see above; whatever it is, it is found message by message
            _log.exception("a batch failed; taking its messages one by one")
            results = [self._take_alone(message) for message in messages]
        for result in results:
            self._metrics.count_batch(result, time.monotonic() - started)
            self._failure_lines.tell(result.failures, time.monotonic())
        return results

    def _take(
        self,
        messages: Sequence[Incoming],
        flooding: Mapping[str, int] = MappingProxyType({}),
    ) -> Ingested:
        with self._store.device_transaction() as tx:
            ingested = ingest(tx, messages, fleet=self._fleet, now=self._now(), flooding=flooding)
        for message in ingested.submissions:
            if self._admission is None:
                continue  # not subscribed to; a broker that sends it all the same changes nothing
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
            with self._store.device_transaction() as tx:
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


def _is_of_a_bridge(message: Incoming) -> bool:
    return bridge_news.is_about_a_bridge(message.topic)

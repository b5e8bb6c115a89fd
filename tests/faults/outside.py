"""What stands outside a device: who hears its promises, and the controller behind its broker.

Whatever promises to be durable says so to `Acknowledged` when it returns, and only then.
"""

import random
from pathlib import Path

from tests.faults.acknowledged import Acknowledged

from mailboat_agent.journal.event_journal import Journal
from mailboat_agent.journal.outbox import Outgoing
from mailboat_agent.state_file import StateFile
from mailboat_agent.trust.trust_store import TrustStore, Verified
from mailboat_agent.update.state import DeviceState, ModelState
from mailboat_schemas.codec import decode
from mailboat_schemas.envelope import PayloadType
from mailboat_schemas.events import Event, EventBatch
from mailboat_schemas.reports import Ack, Hello
from trust_fleet import MODEL

DEVICE = "kiosk-1"


class ToldStateFile(StateFile):
    def __init__(self, directory: Path, told: Acknowledged) -> None:
        super().__init__(directory)
        self._told_outside = told

    def save(self, state: DeviceState) -> DeviceState:
        saved = super().save(state)
        model = saved.models.get(MODEL, ModelState())
        self._told_outside.note(
            told="saved",
            generation=saved.generation,
            session=saved.session,
            phase=str(model.phase),
            install=model.install,
            outcome=model.outcome,
        )
        return saved


class ToldJournal(Journal):
    def __init__(self, path: Path, rng: random.Random, told: Acknowledged) -> None:
        super().__init__(path, rng)
        self._told_outside = told

    def record_event(self, event: Event) -> int:
        sequence = super().record_event(event)
        self._told_outside.note(
            told="recorded",
            epoch=self._epoch,
            sequence=sequence,
            event_id=event.event_id,
            kind=str(event.kind),
            version=event.version,
            digest=event.digest,
        )
        return sequence


class ToldTrust(TrustStore):
    def __init__(self, directory: Path, factory_root: bytes, told: Acknowledged) -> None:
        super().__init__(directory, factory_root)
        self._told_outside = told

    def keep(self, verified: Verified) -> None:
        super().keep(verified)
        self._told_outside.note(told="trusted", versions=dict(verified.view.versions()))


class Controller:
    """The other end of the outbox. The broker confirms every first batch and forgets it."""

    def __init__(self, told: Acknowledged) -> None:
        self._told = told
        self._forgetful = True

    def answers(self, sent: list[Outgoing]) -> list[Ack]:
        answers = []
        for each in sent:
            kind, _, payload = each.payload.partition(b"\0")
            if kind == PayloadType.HELLO.encode():
                answers.append(self._answer(decode(Hello, payload).epoch))
            elif kind == PayloadType.EVENT_BATCH.encode():
                if self._forgetful:
                    self._forgetful = False
                    continue
                answers.append(self._take(decode(EventBatch, payload)))
        return answers

    def _take(self, batch: EventBatch) -> Ack:
        upto = self._told.watermarks.get(batch.epoch, 0)
        if batch.first > upto + 1:
            return self._answer(batch.epoch, rewind=True)
        for event in batch.events:
            if event.sequence > upto:
                self._told.note(
                    told="received",
                    epoch=batch.epoch,
                    sequence=event.sequence,
                    event_id=event.event_id,
                    kind=str(event.kind),
                    version=event.version,
                )
        return self._answer(batch.epoch)

    def _answer(self, epoch: str, *, rewind: bool = False) -> Ack:
        upto = self._told.watermarks.get(epoch, 0)
        return Ack(device=DEVICE, epoch=epoch, events_acked=upto, telemetry_acked=0, rewind=rewind)

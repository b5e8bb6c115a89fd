"""A device forgets its events on an acknowledgement, so only the controller's own may count."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mailboat_agent.artifacts.release_store import ReleaseStore
from mailboat_agent.journal.event_journal import Journal
from mailboat_agent.ledger import Ledger
from mailboat_agent.link.acknowledgement import FORGED_BEFORE_TOLD, AckForged, AckReader
from mailboat_agent.state_file import StateFile
from mailboat_agent.trust.manifest import Counter, Manifest
from mailboat_agent.trust.trust_store import TrustStore
from mailboat_schemas.codec import encode
from mailboat_schemas.errors import MalformedPayload, WrongTopic
from mailboat_schemas.reports import Ack
from trust_fleet import CLASS, FLEET, TrustFleet

NOW = datetime.now(UTC)
ACK = Ack(device="kiosk-1", epoch="0" * 16, events_acked=3, telemetry_acked=0)


@pytest.fixture
def fleet(tmp_path: Path) -> TrustFleet:
    return TrustFleet(tmp_path / "fleet")


class Box:
    def __init__(self, directory: Path, fleet: TrustFleet) -> None:
        self.journal = Journal(directory / "journal.db", random.Random(1))
        self.ledger = Ledger(StateFile(directory), self.journal, now=NOW, rng=random.Random(1))
        self.manifest = Manifest(
            trust=TrustStore(directory, fleet.factory_root),
            store=ReleaseStore(directory),
            fleet=FLEET,
            hardware_class=CLASS,
        )
        self.reader = AckReader(device="kiosk-1", manifest=self.manifest, ledger=self.ledger)

    def told(self) -> list[str]:
        events = self.journal.events_after(0, 100, 1 << 20)
        return [f"{event.kind} {event.code}" for event in events]


@pytest.fixture
def box(tmp_path: Path, fleet: TrustFleet) -> Iterator[Box]:
    box = Box(tmp_path, fleet)
    box.manifest.take(fleet.bundle(), (), Counter(0, ""))
    yield box
    box.journal.close()


def test_an_acknowledgement_of_the_director_counts(box: Box, fleet: TrustFleet) -> None:
    assert box.reader.read(fleet.online.sign_ack(ACK), NOW) == ACK


def test_an_unsigned_one_is_no_acknowledgement(box: Box) -> None:
    with pytest.raises(MalformedPayload):
        box.reader.read(encode(ACK), NOW)


def test_one_of_another_controller_is_refused(box: Box, tmp_path: Path) -> None:
    stranger = TrustFleet(tmp_path / "stranger").online

    with pytest.raises(AckForged):
        box.reader.read(stranger.sign_ack(ACK), NOW)


def test_a_desired_state_never_passes_for_one(box: Box, fleet: TrustFleet) -> None:
    bundle = fleet.read(fleet.bundle())

    with pytest.raises(AckForged):
        box.reader.read(bundle.desired, NOW)


def test_that_of_another_device_is_refused(box: Box, fleet: TrustFleet) -> None:
    with pytest.raises(WrongTopic):
        box.reader.read(fleet.online.sign_ack(ACK.model_copy(update={"device": "kiosk-2"})), NOW)


def test_before_the_first_manifest_nobody_is_believed(tmp_path: Path, fleet: TrustFleet) -> None:
    new = Box(tmp_path / "new", fleet)

    with pytest.raises(AckForged):
        new.reader.read(fleet.online.sign_ack(ACK), NOW)

    assert new.told() == []
    new.journal.close()


def test_several_in_a_row_are_told_once_and_one_is_not(
    box: Box, fleet: TrustFleet, tmp_path: Path
) -> None:
    stranger = TrustFleet(tmp_path / "stranger").online

    def forge(times: int) -> None:
        for _ in range(times):
            with pytest.raises(AckForged):
                box.reader.read(stranger.sign_ack(ACK), NOW)

    forge(FORGED_BEFORE_TOLD - 1)
    box.reader.read(fleet.online.sign_ack(ACK), NOW)
    forge(FORGED_BEFORE_TOLD - 1)
    assert box.told() == []

    forge(5)
    assert box.told() == ["security E-ACK-FORGED"]

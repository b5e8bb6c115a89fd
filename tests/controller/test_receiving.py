from collections.abc import Iterator
from pathlib import Path

import pytest

from controller_core import Core, plan
from enrolled_fleet import FLEET
from mailboat_controller.ingest.batch import ingest
from mailboat_controller.metrics import Metrics
from mailboat_controller.mqtt import receiving
from mailboat_controller.mqtt.incoming import Incoming
from mailboat_controller.mqtt.receiving import UNEXPECTED_CODE, Receiver
from mailboat_controller.store import events, quarantine
from mailboat_schemas.errors import DiskFull
from mailboat_schemas.topics import Channel, build


class Counted:
    """Stands where a loop's `Wake` does; there is no loop here."""

    def __init__(self) -> None:
        self.times = 0

    def set(self) -> None:
        self.times += 1


@pytest.fixture
def core(tmp_path: Path) -> Iterator[Core]:
    core = Core(tmp_path)
    yield core
    core.store.close()


def receiver(core: Core) -> Receiver:
    return Receiver(
        store=core.store,
        admission=core.admission,
        fleet=FLEET,
        metrics=Metrics(core.store, dict),
        changed=Counted(),  # type: ignore[arg-type]
        queued=Counted(),  # type: ignore[arg-type]
        sign_ack=core.reconciler.sign_ack,
        now=lambda: core.now,
    )


def stored(core: Core) -> list[int]:
    with core.store.read() as tx:
        return [row.sequence for row in events.page(tx)]


def test_events_and_a_submission_of_one_batch_are_both_taken(core: Core) -> None:
    device = core.fleet.enrol("dev-1")
    core.trust.release("1.0.0", plan("first"))
    topic = build(Channel.SUBMIT, fleet=FLEET, pipeline="build")
    submission = Incoming(topic=topic, payload=core.submission("release-vad", "approval-vad"))

    (result,) = receiver(core).take([device.numbered(1, 2), submission])

    assert result.submissions == (submission,)
    assert stored(core) == [1, 2]
    assert core.rollout("first").waves_open == 1


def test_one_message_that_breaks_us_is_set_aside_and_the_others_are_taken(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = core.fleet.enrol("dev-1")
    bad = Incoming(topic="breaks/us", payload=b"")
    real = ingest

    def fragile(tx: object, messages: list[Incoming], **more: object) -> object:
        if bad in messages:
            raise ZeroDivisionError
        return real(tx, messages, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(receiving, "ingest", fragile)

    receiver(core).take([device.numbered(1, 1), bad, device.numbered(2, 2)])

    assert stored(core) == [1, 2]
    with core.store.read() as tx:
        assert [row["code"] for row in quarantine.page(tx)] == [UNEXPECTED_CODE]


def test_a_full_disk_is_no_reason_to_set_anything_aside(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: object, **_more: object) -> object:
        raise DiskFull("The disk is full.", next_step="free space.")

    monkeypatch.setattr(receiving, "ingest", full)

    with pytest.raises(DiskFull):
        receiver(core).take([Incoming(topic="x", payload=b"")])
    with core.store.read() as tx:
        assert quarantine.count(tx) == 0

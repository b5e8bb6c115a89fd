"""A disk that is full or cannot be written: nothing is acknowledged, nothing set aside, and it goes
on when there is room again. On a real file system."""

from pathlib import Path

import pytest

from small_disk import run_on_small_disk

SUPPORT = Path(__file__).parents[1] / "support"
PROGRAM = """
import os, subprocess, sys
sys.path.insert(0, {support!r})
from enrolled_fleet import EnrolledFleet, FLEET
from mailboat_controller.metrics.process_metrics import Metrics
from mailboat_controller.mqtt.receiving import Receiver
from mailboat_controller.store import events, quarantine
from mailboat_controller.store.engine import DatabaseUnusable, Store
from mailboat_schemas.errors import DiskFull
from enrolled_fleet import NOON

fleet = EnrolledFleet(DISK)
device = fleet.enrol("dev-1")
receiver = Receiver(
    store=fleet.store, admission=None, fleet=FLEET, metrics=Metrics(fleet.store, dict),
    changed=None, queued=None, sign_ack=lambda ack: b"", now=lambda: NOON,
)
acked = 0


def take(first, last):
    global acked
    for result in receiver.take([device.numbered(first, last), *poison]):
        acked = max([acked, *(ack.events_acked for _, ack in result.acks)])


def refused(kind, *words):
    try:
        take(acked + 1, acked + 100)
    except kind as error:
        told = str(error) + error.next_step
        assert all(word in told for word in words), told
    else:
        raise AssertionError("it was taken")


# Beside them a message that would be set aside.
poison = [device.numbered(1, 1).__class__(topic="no/topic/of/ours", payload=b"x" * 4096)]
take(1, 100)
fill()
while True:  # what is left in the file and its log is used up
    try:
        take(acked + 1, acked + 100)
    except DiskFull:
        break
refused(DiskFull, "free space")
with fleet.store.read() as tx:
    assert events.count(tx) == acked
    set_aside = quarantine.count(tx)
(DISK / "filler").unlink()
take(acked + 1, acked + 100)
with fleet.store.read() as tx:
    assert events.count(tx) == acked
    assert quarantine.count(tx) == set_aside + 1
fleet.store.close()

subprocess.run(["mount", "-o", "remount,ro", str(DISK)], check=True)
fleet.store = receiver._store = Store(fleet.url)
before = acked
refused(DatabaseUnusable, "rights", "database_url")
assert acked == before
"""


@pytest.mark.slow
def test_nothing_is_acknowledged_on_a_full_disk_or_one_that_cannot_be_written(
    tmp_path: Path,
) -> None:
    run_on_small_disk(tmp_path / "disk", 8 << 20, PROGRAM.format(support=str(SUPPORT)))

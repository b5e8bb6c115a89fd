"""Rows of logs, webhooks and traces on every database."""

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from enrolled_fleet import DIGEST, NOON, EnrolledFleet
from mailboat_controller.store import (
    audit_readers,
    first_told,
    log_requests,
    trace_rows,
    webhook_deliveries,
    webhooks,
)
from mailboat_controller.store.log_requests import LogRequestRow
from mailboat_controller.store.webhook_deliveries import DeliveryState
from mailboat_controller.store.webhooks import State, WebhookRow
from mailboat_schemas.device_orders import LogLine
from mailboat_schemas.events import EventKind


@pytest.fixture
def fleet(tmp_path: Path, database_url: str) -> Iterator[EnrolledFleet]:
    fleet = EnrolledFleet(tmp_path, database_url)
    yield fleet
    fleet.store.close()


def asked(digit: str, *, counter: int = 1, withdrawn: bool = False) -> LogRequestRow:
    return LogRequestRow(
        request=digit * 16,
        device="dev-1",
        asked_by="operator:alice",
        reason="why",
        asked_at=NOON,
        expires_at=NOON + timedelta(hours=1),
        since=0,
        follow_seconds=0,
        counter=counter,
        withdrawn=withdrawn,
        lines=0,
        bytes=0,
        withheld=0,
        answered_at=None,
        completed_at=None,
    )


def test_of_many_old_requests_some_go_in_each_transaction(
    fleet: EnrolledFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_requests, "FORGOTTEN_AT_ONCE", 2)
    late = NOON + timedelta(days=31)
    with fleet.store.transaction() as tx:
        for counter, digit in enumerate("abc", start=1):
            log_requests.put(tx, asked(digit, counter=counter, withdrawn=True))

        assert [log_requests.forget_old(tx, late) for _ in range(3)] == [2, 1, 0]


def test_lines_are_kept_once_and_old_requests_go(fleet: EnrolledFleet) -> None:
    row = asked("a")
    lines = [
        LogLine(number=n, at=n, level="info", logger="x", message=f"\0 {n} 🚀") for n in (1, 2)
    ]
    with fleet.store.transaction() as tx:
        log_requests.put(tx, row)
        assert log_requests.add_lines(tx, row, lines, last=False, withheld=0, now=NOON) == 2
        held = log_requests.get(tx, "dev-1", row.request)
        assert log_requests.add_lines(tx, held, lines, last=True, withheld=4, now=NOON) == 0
        assert log_requests.newest_counter(tx, "dev-1") == 1
        log_requests.withdraw(tx, "dev-1", 2, NOON)
        assert log_requests.count_open(tx) == 0
        found = log_requests.get(tx, "dev-1", row.request)
        assert (found.lines, found.withheld, found.state(NOON)) == (2, 4, "complete")
        assert [each.number for each in log_requests.lines_after(tx, row.request, 0, 10)] == [1, 2]
        assert log_requests.forget_old(tx, NOON) == 0
        assert log_requests.forget_old(tx, NOON + timedelta(days=31)) == 1
        assert log_requests.lines_after(tx, row.request, 0, 10) == ()


def test_deliveries_wait_in_order_and_end(fleet: EnrolledFleet) -> None:
    hook = WebhookRow(
        name="chat",
        url="https://example.org/",
        types=("a",),
        models=(),
        state=State.ACTIVE,
        because="",
        failures=0,
        failing_since=None,
        created_by="operator:alice",
        created_at=NOON,
        secret_file="chat.secret",
    )
    with fleet.store.transaction() as tx:
        webhooks.add(tx, hook)
        assert webhooks.get(tx, "chat") == hook
        for number in (2, 1, 2):
            body = json.dumps(number).encode()
            webhook_deliveries.queue(tx, "chat", f"msg_{number}", number, "a", body, NOON)
        due = webhook_deliveries.due(tx, "chat", NOON, 10)
        assert [row.event for row in due] == ["msg_1", "msg_2"]
        later = NOON + timedelta(minutes=1)
        webhook_deliveries.postpone(
            tx, "chat", "msg_1", status=503, problem="away", next_attempt_at=later
        )
        webhook_deliveries.end(tx, "chat", "msg_2", DeliveryState.DELIVERED, 204, "", NOON)
        assert webhook_deliveries.due(tx, "chat", NOON, 10) == ()
        assert webhook_deliveries.count_waiting(tx) == {"chat": 1}
        webhook_deliveries.send_soon(tx, "chat", NOON)
        assert [row.attempts for row in webhook_deliveries.due(tx, "chat", NOON, 10)] == [1]
        failed = webhooks.count_failure(tx, "chat", NOON)
        assert failed is not None
        assert (failed.failures, failed.failing_since) == (1, NOON)
        webhooks.count_success(tx, "chat")
        assert webhooks.get(tx, "chat") == hook
        assert audit_readers.reached(tx, "x") is None
        for sequence in (3, 9):
            audit_readers.set_reached(tx, "x", sequence)
        assert audit_readers.reached(tx, "x") == 9
        webhooks.remove(tx, "chat")
        assert webhooks.every(tx) == ()


def test_the_rows_of_a_trace(fleet: EnrolledFleet) -> None:
    for name, kind in (("dev-1", EventKind.COMMITTED), ("dev-2", EventKind.TRIAL_FAILED)):
        device = fleet.enrol(name)
        fleet.take(device.tells(1, kind, digest=DIGEST, version="1.0.0"))
    with fleet.store.transaction() as tx:
        assert trace_rows.count_devices(tx, DIGEST) == 2
        assert trace_rows.devices_worst_first(tx, DIGEST, 5) == ("dev-2", "dev-1")
        (event,) = trace_rows.events_of(tx, "dev-1", DIGEST)
        assert trace_rows.digest_of_event(tx, "dev-1", event.event_id) == DIGEST
        for counter, at in ((4, NOON), (5, NOON + timedelta(hours=1))):
            first_told.note(tx, "kiosk-x86", counter, [(DIGEST, first_told.OFFER)], at)
        (told,) = first_told.of(tx, DIGEST)
        assert (told.counter, told.at) == (4, NOON)

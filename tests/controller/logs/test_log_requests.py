"""A device is asked for its log by a signed order; what comes is kept once, if it was asked for."""

import json
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import zstandard

from enrolled_fleet import FLEET, NOON, EnrolledDevice, EnrolledFleet
from mailboat_controller import cli
from mailboat_controller.cli.device_logs import _text
from mailboat_controller.device_logs.orders import LogOrders, TooManyLogRequests
from mailboat_controller.mqtt.incoming import Incoming
from mailboat_controller.store import audit, devices, log_requests, outbox
from mailboat_controller.store.log_requests import LogRequestRow
from mailboat_controller.store.outbox import OutboxRow
from mailboat_schemas import device_orders
from mailboat_schemas.codec import decode, encode
from mailboat_schemas.device_orders import DeviceDesired, LogExcerpt, LogLine
from mailboat_schemas.envelope import Envelope, PayloadType, sign_as_device
from mailboat_schemas.errors import Conflict, NotFound
from mailboat_schemas.topics import Channel
from running_api import RunningApi, running_api
from trust_fleet import TrustFleet

REQUEST = "a" * 16


class Desk:
    """Where operators ask."""

    def __init__(self, directory: Path, trust: TrustFleet) -> None:
        self.fleet = EnrolledFleet(directory)
        self.store = self.fleet.store
        self.now = NOON
        self.device = self.fleet.enrol("dev-1")
        self.orders = LogOrders(
            self.store,
            trust.online.sign_order,
            FLEET,
            now=lambda: self.now,
            queued=lambda: None,
        )

    def outbox(self) -> list[OutboxRow]:
        with self.store.read() as tx:
            return list(outbox.pending(tx, 100))

    def ask(self, request: str = REQUEST, device: str = "dev-1") -> LogRequestRow:
        return self.orders.ask(
            device,
            request,
            actor="operator:alice",
            reason="it rolled back",
            since=None,
            follow_seconds=0,
            valid=timedelta(hours=24),
        )

    def order(self) -> DeviceDesired:
        """The newest that waits for the broker."""
        (row,) = [row for row in self.outbox() if row.topic.endswith("/dn/desired")]
        assert (row.qos, row.retain) == (1, True)
        envelope = decode(Envelope, row.payload)
        assert envelope.payload_type == PayloadType.DEVICE_DESIRED
        return decode(DeviceDesired, envelope.payload)

    def answers(
        self, *numbers: int, last: bool = False, request: str = REQUEST, of: str = "dev-1"
    ) -> list[str]:
        """What went wrong, by code."""
        device = self.device
        excerpt = LogExcerpt(
            device=of, request=request, lines=tuple(map(line, numbers)), last=last, withheld=3
        )
        payload = device.sealed(PayloadType.LOG_EXCERPT, excerpt)
        return self.takes(payload)

    def takes(self, payload: bytes) -> list[str]:
        topic = self.device.topic(Channel.LOGS)
        result = self.fleet.take(Incoming(topic=topic, payload=payload), now=self.now)
        return sorted(result.quarantined)

    def row(self, request: str = REQUEST) -> LogRequestRow:
        with self.store.read() as tx:
            return log_requests.get(tx, "dev-1", request)

    def kept(self, request: str = REQUEST) -> list[int]:
        with self.store.read() as tx:
            return [each.number for each in log_requests.lines_after(tx, request, 0, 10_000)]


def line(number: int) -> LogLine:
    return LogLine(number=number, at=number * 1000, level="info", logger="x", message=f"{number}")


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> TrustFleet:
    return TrustFleet(tmp_path_factory.mktemp("ceremony"), now=NOON)


@pytest.fixture
def desk(tmp_path: Path, trust: TrustFleet) -> Iterator[Desk]:
    desk = Desk(tmp_path, trust)
    yield desk
    desk.store.close()


def test_asking_is_audited_and_the_order_is_signed_retained_and_ends(desk: Desk) -> None:
    row = desk.ask()

    order = desk.order()
    assert order.device == "dev-1"
    assert order.logs is not None
    assert order.logs.request == REQUEST
    assert order.logs.expires == int((desk.now + timedelta(hours=24)).timestamp())
    assert row.state(desk.now) == "waiting"
    with desk.store.read() as tx:
        entry = audit.newest(tx, "dev-1", "device.logs")
    assert entry is not None
    assert (entry.actor, entry.reason) == ("operator:alice", "it rolled back")


def test_each_line_is_kept_once_however_often_it_comes(desk: Desk) -> None:
    desk.ask()
    desk.answers(1, 2, 3)
    desk.answers(2, 3, 4)
    assert desk.row().state(desk.now) == "answering"
    desk.answers(1, 2, 3, 4, 5, last=True)

    assert desk.kept() == [1, 2, 3, 4, 5]
    row = desk.row()
    assert (row.state(desk.now), row.lines, row.withheld) == ("complete", 5, 3)


def test_nobody_can_fill_the_database_with_what_he_was_not_asked_for(desk: Desk) -> None:
    assert desk.answers(1, 2, 3) == []
    desk.ask()
    desk.answers(1, request="b" * 16)
    desk.answers(1, last=True)
    desk.answers(2)  # it is complete

    assert desk.kept() == [1]
    assert desk.kept("b" * 16) == []


def test_another_devices_name_or_key_in_an_answer_is_set_aside(desk: Desk) -> None:
    desk.ask()

    assert desk.answers(1, of="dev-2") == ["E-TOPIC-MISMATCH"]
    thief = EnrolledDevice("dev-1")
    excerpt = LogExcerpt(device="dev-1", request=REQUEST, lines=(line(1),))
    assert desk.takes(thief.sealed(PayloadType.LOG_EXCERPT, excerpt)) == ["E-SIGNATURE"]
    as_events = desk.device.sealed(PayloadType.EVENT_BATCH, excerpt)
    assert desk.takes(as_events) == ["E-SIGNATURE"]
    assert desk.kept() == []


def test_bytes_beyond_the_bound_are_not_kept(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_requests, "LINES_BYTES_MAX", 3)
    desk.ask()
    desk.answers(1, 2, 3, 4)

    assert desk.kept() == [1, 2, 3]
    assert desk.row().state(desk.now) == "complete"


def test_lines_beyond_the_bound_are_not_kept(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_requests, "LINES_MAX", 4)
    desk.ask()
    desk.answers(1, 2, 3)
    desk.answers(4, 5, 6)

    assert desk.kept() == [1, 2, 3, 4]
    assert desk.row().state(desk.now) == "complete"


@pytest.mark.parametrize("how", ["complete", "expired"])
def test_an_order_that_is_over_is_taken_back_with_a_newer_one(desk: Desk, how: str) -> None:
    asked = desk.ask()
    assert desk.orders.look() == 0
    if how == "complete":
        desk.answers(1, last=True)
    else:
        desk.now += timedelta(hours=25)

    assert desk.orders.look() == 1

    order = desk.order()
    assert order.logs is None
    assert order.counter > asked.counter
    assert desk.orders.look(assert_open=True) == 0


def test_a_standing_order_is_said_again_for_a_broker_that_forgot_it(desk: Desk) -> None:
    asked = desk.ask()
    with desk.store.transaction() as tx:
        outbox.remove(tx, [row.id for row in desk.outbox()])

    assert desk.orders.look(assert_open=True) == 1

    assert desk.order().counter == asked.counter


def test_a_second_request_ends_the_first(desk: Desk) -> None:
    desk.ask()
    desk.ask("b" * 16)

    order = desk.order()
    assert order.logs is not None
    assert order.logs.request == "b" * 16
    assert desk.row().state(desk.now) == "expired"


def test_a_clock_set_back_gives_no_counter_twice(desk: Desk) -> None:
    first = desk.ask()
    desk.now -= timedelta(days=1)

    assert desk.ask("b" * 16).counter > first.counter


def test_only_the_newest_requests_of_a_device_are_kept(desk: Desk) -> None:
    for number in range(log_requests.REQUESTS_KEPT_PER_DEVICE + 3):
        desk.ask(f"{number:016x}")
        desk.answers(1, request=f"{number:016x}", last=True)

    with desk.store.read() as tx:
        assert len(log_requests.of_device(tx, "dev-1")) == log_requests.REQUESTS_KEPT_PER_DEVICE
    assert desk.kept(f"{0:016x}") == []


def test_so_many_may_wait_and_no_more(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_requests, "REQUESTS_OPEN_MAX", 1)
    desk.fleet.enrol("dev-2")
    desk.ask()

    with pytest.raises(TooManyLogRequests):
        desk.ask("b" * 16, device="dev-2")


def test_what_was_asked_for_long_ago_goes_with_its_lines_also_in_a_quiet_fleet(
    desk: Desk,
) -> None:
    desk.ask()
    desk.answers(1, 2, last=True)
    desk.orders.look()
    desk.now += log_requests.KEPT_FOR + timedelta(days=1)

    assert desk.orders.look(assert_open=True) == 0

    assert desk.kept() == []
    with pytest.raises(NotFound):
        desk.row()


def test_numbers_that_no_database_holds_are_set_aside(desk: Desk) -> None:
    desk.ask()
    odd = (
        {"lines": (line(1).model_copy(update={"at": 1 << 63}),)},
        {"lines": (line(1).model_copy(update={"at": -(1 << 62)}),)},
        {"lines": (line(1).model_copy(update={"number": 0}),)},
        {"lines": (line(1).model_copy(update={"level": "x" * 17}),)},
        {"withheld": (1 << 64) - 1},
    )
    for field in odd:
        content = {"device": "dev-1", "request": REQUEST, "lines": (), "last": True, "withheld": 0}
        excerpt = LogExcerpt.model_construct(**{**content, **field})
        said = desk.takes(desk.device.sealed(PayloadType.LOG_EXCERPT, excerpt))
        assert said == ["E-PAYLOAD-MALFORMED"], field

    assert desk.answers(1) == []
    assert desk.kept() == [1]


def test_an_answer_that_unpacks_into_more_than_its_bound_is_set_aside(desk: Desk) -> None:
    desk.ask()
    bomb = zstandard.ZstdCompressor(level=1).compress(bytes(1 << 26))
    assert len(bomb) < LogExcerpt.wire_bytes_max
    device = desk.device

    payload = encode(sign_as_device(PayloadType.LOG_EXCERPT, bomb, device.key, device.name))

    assert desk.takes(payload) == ["E-PAYLOAD-TOO-LARGE"]


def test_a_stranger_or_a_revoked_device_is_not_asked(desk: Desk) -> None:
    with pytest.raises(NotFound):
        desk.ask(device="nobody")
    with desk.store.transaction() as tx:
        devices.revoke(tx, "dev-1")
    with pytest.raises(Conflict):
        desk.ask()


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    with running_api(tmp_path_factory.mktemp("controller")) as api:
        assert api.enrol("dev-1").status == 201
        yield api


def test_what_a_device_says_moves_no_terminal_and_forges_no_line() -> None:
    message = "\x1b[2J\n2026 error forged"
    said = _text({"at": -device_orders.AT_MS_MAX, "level": "\x9b1m", "message": message})

    assert said == "1970-01-01T00:00:00.000+00:00  1m      [2J\n    2026 error forged"


@pytest.mark.slow
def test_the_command_asks_waits_and_prints(
    api: RunningApi,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MAILBOAT_CONNECTION", str(api.connection_file("alice")))

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["mailboat", "device", "logs", *arguments])
        try:
            cli.main()
        except SystemExit as end:
            assert not end.code, capsys.readouterr()
        return capsys.readouterr().out

    said = run("dev-1", "--reason", "it is slow", "--since", "2h", "--wait", "0")
    assert "Not complete (waiting)" in said
    (asked,) = json.loads(run("dev-1", "--list", "--json"))
    with api.store.transaction() as tx:
        row = log_requests.get(tx, "dev-1", asked["request"])
        assert row.since > 0
        hostile = {"message": "\x1b[2J\n2026 error forged", "at": -device_orders.AT_MS_MAX}
        lines = [line(1), line(2).model_copy(update=hostile | {"level": "\x9b1m"})]
        log_requests.add_lines(tx, row, lines, last=True, withheld=1, now=api.now())

    said = run("dev-1", "--request", asked["request"])
    assert "1970-01-01T00:00:01.000+00:00 info    1" in said
    assert "\x1b" not in said
    assert "\x9b" not in said
    assert "\n    2026 error forged" in said
    assert "(1 lines were too many to keep)" in said


@pytest.mark.slow
def test_a_reason_must_be_given(api: RunningApi) -> None:
    answer = api.ask("POST", "/v1/devices/dev-1/logs", by="alice", body={"reason": " "})
    assert answer.status == 422

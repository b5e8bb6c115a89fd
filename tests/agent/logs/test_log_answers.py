"""A device answers with its log: whole, bounded, again after a reconnect, never after the end."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mailboat_agent.logs.answers import FOLLOW_PART_SECONDS, PART_SECONDS, LogAnswers
from mailboat_agent.logs.ring import LogRing
from mailboat_schemas.codec import decode
from mailboat_schemas.device_orders import DeviceDesired, LogExcerpt, LogRequest

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
NOON_MS = int(NOON.timestamp() * 1000)


class Device:
    def __init__(self, directory: Path, *, lines: int = 0, chars: int = 10) -> None:
        self.ring = LogRing(directory, 8 << 20)
        self.answers = LogAnswers("dev-1", self.ring, lambda _kind, payload: payload)
        self.monotonic = 1000.0
        self.now = NOON
        for _ in range(lines):
            self.say("x" * chars)

    def say(self, text: str) -> None:
        number = self.ring.newest + 1
        self.ring.append(
            at=NOON_MS + number * 1000, level="info", logger="test", message=f"{number} {text}"
        )

    def asked(self, counter: int = 1, **more: object) -> None:
        content: dict[str, object] = {
            "request": "a" * 16,
            "expires": int((NOON + timedelta(hours=1)).timestamp()),
        }
        request = LogRequest.model_validate(content | more)
        self.order(counter, request)

    def order(self, counter: int, request: LogRequest | None) -> None:
        order = DeviceDesired(fleet="demo", device="dev-1", counter=counter, issued=0, logs=request)
        self.answers.take(order, self.now, self.monotonic)

    def look(self, seconds: float = PART_SECONDS) -> LogExcerpt | None:
        part = self.answers.due(self.now, self.monotonic)
        self.monotonic += seconds
        return None if part is None else decode(LogExcerpt, part)

    def everything(self) -> list[LogExcerpt]:
        parts = []
        while (part := self.look()) is not None:
            parts.append(part)
        return parts


def numbers(parts: list[LogExcerpt]) -> list[int]:
    return [line.number for part in parts for line in part.lines]


def test_every_line_comes_once_in_parts_and_the_last_says_so(tmp_path: Path) -> None:
    device = Device(tmp_path, lines=1200)
    device.asked()

    parts = device.everything()

    assert numbers(parts) == list(range(1, 1201))
    assert [part.last for part in parts] == [False] * (len(parts) - 1) + [True]
    assert len(parts) > 2


def test_a_part_is_below_what_a_message_may_weigh_however_long_the_lines(tmp_path: Path) -> None:
    device = Device(tmp_path, lines=200, chars=1990)
    device.asked()

    for part in device.everything():
        assert len(part.model_dump_json()) < LogExcerpt.wire_bytes_max


def test_of_too_many_lines_the_newest_are_sent(tmp_path: Path) -> None:
    device = Device(tmp_path, lines=1000, chars=100)
    device.asked(bytes_max=20_000)

    found = numbers(device.everything())

    assert found == list(range(found[0], 1001))
    assert 10 < len(found) < 100


def test_since_leaves_out_what_is_older(tmp_path: Path) -> None:
    device = Device(tmp_path, lines=50)
    device.asked(since=NOON_MS + 41_000)

    assert numbers(device.everything()) == list(range(41, 51))


def test_a_log_without_a_line_is_an_answer_too(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.asked()

    (part,) = device.everything()
    assert (part.lines, part.last) == ((), True)


def test_after_a_reconnect_everything_is_said_again(tmp_path: Path) -> None:
    """The broker may have died with what it had taken."""
    device = Device(tmp_path, lines=600)
    device.asked()
    assert device.look() is not None

    device.answers.on_connected(device.monotonic)

    assert numbers(device.everything()) == list(range(1, 601))


def test_a_part_the_link_did_not_take_is_given_again(tmp_path: Path) -> None:
    device = Device(tmp_path, lines=10)
    device.asked()
    first = device.look()
    device.answers.not_sent()

    assert device.look() == first


def test_a_repeated_order_does_not_begin_the_answer_anew(tmp_path: Path) -> None:
    device = Device(tmp_path, lines=10)
    device.asked(counter=5)
    assert len(device.everything()) == 1

    device.asked(counter=5)
    device.asked(counter=4, request="b" * 16)

    assert device.everything() == []


def test_an_order_that_is_taken_back_ends_the_answer(tmp_path: Path) -> None:
    device = Device(tmp_path, lines=1200)
    device.asked(counter=1)
    assert device.look() is not None

    device.order(2, None)

    assert device.look() is None


@pytest.mark.parametrize("late", [True, False], ids=["before it is heard", "while it is answered"])
def test_nobody_answers_after_the_end(tmp_path: Path, late: bool) -> None:
    device = Device(tmp_path, lines=1200)
    if not late:
        device.asked()
        assert device.look() is not None
    device.now = NOON + timedelta(hours=1)
    if late:
        device.asked()

    assert device.look() is None


def test_followed_lines_come_until_the_time_is_over(tmp_path: Path) -> None:
    device = Device(tmp_path, lines=3)
    device.asked(follow_seconds=60)
    first = device.look()
    assert first is not None
    assert (len(first.lines), first.last) == (3, False)

    device.say("new")
    second = device.look(FOLLOW_PART_SECONDS)
    assert second is not None
    assert [line.number for line in second.lines] == [4]
    assert device.look(60) is None

    device.say("the last")
    last = device.look()
    assert last is not None
    assert ([line.number for line in last.lines], last.last) == ([5], True)
    assert device.look() is None

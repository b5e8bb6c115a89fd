"""What systemd is told, on a real notification socket."""

import asyncio
import socket
import time
from pathlib import Path

import pytest

from mailboat_agent.supervisor import BEAT_SECONDS_MAX, Watchdog

LIMIT_US = 100_000


def heard(address: Path, monkeypatch: pytest.MonkeyPatch, watchdog: Watchdog) -> list[bytes]:
    """Everything said within three limits."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(address))
        sock.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(address))
        monkeypatch.setenv("WATCHDOG_USEC", str(LIMIT_US))
        with pytest.raises(TimeoutError):
            asyncio.run(asyncio.wait_for(watchdog.run(), 3 * LIMIT_US / 1e6))
        words = []
        while True:
            try:
                words.append(sock.recv(100))
            except BlockingIOError:
                return words


def test_the_watchdog_is_fed_twice_within_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = heard(tmp_path / "notify", monkeypatch, Watchdog(lambda _: ()))

    assert 5 <= len(words) <= 7
    assert set(words) == {b"WATCHDOG=1"}


def test_a_thread_that_serves_and_does_not_move_starves_the_watchdog(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    words = heard(tmp_path / "notify", monkeypatch, Watchdog(lambda _: ("heat",)))

    assert words == []
    assert "the threads that serve heat do not move" in caplog.text


def test_a_loop_that_no_longer_decides_starves_it_too() -> None:
    watchdog = Watchdog(lambda _: ())
    now = time.monotonic()

    assert watchdog.problem(now + BEAT_SECONDS_MAX - 1) is None
    assert watchdog.problem(now + BEAT_SECONDS_MAX + 1) == "nothing was decided for 181 s"
    watchdog.beat()
    assert watchdog.problem(time.monotonic()) is None


def test_without_a_watchdog_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)

    asyncio.run(Watchdog(lambda _: ()).run())

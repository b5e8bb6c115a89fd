import asyncio
import time
from pathlib import Path

import pytest

from mailboat_agent.busy import NEVER_BUSY, Busy


def waited(busy: Busy, *, serves: list[bool] | None = None) -> float:
    """Seconds. ``serves`` are the answers to whether anything still serves, then yes."""
    left = list(serves or [])
    began = time.monotonic()
    asyncio.run(busy.passes("m", lambda: left.pop(0) if left else True))
    return time.monotonic() - began


def test_a_switch_waits_until_the_file_is_gone(tmp_path: Path) -> None:
    sign = tmp_path / "busy"
    sign.touch()

    async def finish_soon() -> float:
        began = time.monotonic()
        asyncio.get_running_loop().call_later(0.1, sign.unlink)
        await Busy(sign, 60).passes("m", lambda: True)
        return time.monotonic() - began

    assert 0.1 <= asyncio.run(finish_soon()) < 5


def test_a_file_that_somebody_left_behind_holds_nothing_up_for_good(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "busy").touch()

    assert 0.3 <= waited(Busy(tmp_path / "busy", 0.3)) < 5
    assert "busy for 0.3 s" in caplog.text


def test_a_withdrawal_does_not_wait(tmp_path: Path) -> None:
    """Nothing serves any more, so nobody is disturbed."""
    (tmp_path / "busy").touch()

    assert waited(Busy(tmp_path / "busy", 60), serves=[False]) < 1


def test_without_a_file_or_a_setting_nobody_is_busy(tmp_path: Path) -> None:
    assert waited(Busy(tmp_path / "busy", 60)) < 0.2
    assert waited(NEVER_BUSY) < 0.2

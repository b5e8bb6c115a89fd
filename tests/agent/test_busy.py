import asyncio
import json
import os
import time
from pathlib import Path

import pytest

from mailboat_agent.busy import NEVER_BUSY, Busy
from mailboat_agent.cli import EXIT_AUTH, EXIT_FAILURE, EXIT_OK, main
from mailboat_agent.config import to_toml


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

    assert 0.1 <= asyncio.run(finish_soon()) < 30


def test_a_file_that_somebody_left_behind_holds_nothing_up_for_good(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "busy").touch()

    assert 0.3 <= waited(Busy(tmp_path / "busy", 0.3)) < 30
    assert "busy for 0.3 s" in caplog.text


def test_a_withdrawal_does_not_wait(tmp_path: Path) -> None:
    """Nothing serves any more, so nobody is disturbed."""
    (tmp_path / "busy").touch()

    assert waited(Busy(tmp_path / "busy", 60), serves=[False]) < 20


def test_without_a_file_or_a_setting_nobody_is_busy(tmp_path: Path) -> None:
    assert waited(Busy(tmp_path / "busy", 60)) < 20
    assert waited(NEVER_BUSY) < 20


def test_who_waits_for_the_application_says_so(tmp_path: Path) -> None:
    sign = tmp_path / "busy"
    sign.touch()

    async def story() -> tuple[str, str]:
        busy = Busy(sign, 60)
        waiting = asyncio.create_task(busy.passes("m", lambda: True))
        await asyncio.sleep(0)
        told = busy.because("m")
        assert busy.because("another") == ""
        sign.unlink()
        await waiting
        return told, busy.because("m")

    told, afterwards = asyncio.run(story())
    assert told == f"the application is busy ({sign}); it is waited for 60 s"
    assert afterwards == ""


# --- the command ---------------------------------------------------------------------------------


def configured(directory: Path, **more: str) -> Path:
    """An agent.toml; nothing of what it names has to be there for this command."""
    path = directory / "agent.toml"
    settings = {
        "fleet": "demo",
        "device": "kiosk-1",
        "hardware_class": "kiosk-x86",
        "data_dir": "data",
        "api_url": "https://controller.example:8443",
        "mqtt_host": "controller.example",
        "mqtt_port": 8883,
        "ca": "ca.pem",
        "certificate": "device.pem",
        "key": "device.key",
        "trust_root": "root.json",
    }
    path.write_text(to_toml(settings | more), encoding="utf-8")
    return path


def test_an_application_is_busy_without_knowing_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configured(tmp_path)
    (tmp_path / "data").mkdir()
    sign = tmp_path / "data" / "busy"

    assert main(["busy", "on", "--config", str(config)]) == EXIT_OK
    assert sign.exists()
    assert Busy(sign, 60).now
    os.utime(sign, (0, 1_700_000_000))  # it was laid down a while ago
    assert main(["busy", "on", "--config", str(config), "--json"]) == EXIT_OK
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {
        "busy": True,
        "since": "2023-11-14T22:13:20+00:00",
        "file": str(sign),
        "seconds_max": 600.0,
    }
    for _ in range(2):
        assert main(["busy", "off", "--config", str(config)]) == EXIT_OK
    assert not sign.exists()
    assert main(["busy", "status", "--config", str(config)]) == EXIT_OK
    assert capsys.readouterr().out.splitlines()[-1].startswith("Not busy")


def test_the_command_uses_the_file_that_the_settings_name(tmp_path: Path) -> None:
    config = configured(tmp_path, busy_file=str(tmp_path / "sign"))

    assert main(["busy", "on", "--config", str(config)]) == EXIT_OK
    assert (tmp_path / "sign").exists()


def test_a_sign_that_cannot_be_laid_down_is_an_error_with_a_next_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = configured(tmp_path, busy_file=str(tmp_path / "missing" / "sign"))
    assert main(["busy", "on", "--config", str(missing)]) == EXIT_FAILURE
    assert "make that directory" in capsys.readouterr().err

    forbidden = configured(tmp_path, busy_file="/proc/1/sign")
    assert main(["busy", "on", "--config", str(forbidden)]) in (EXIT_AUTH, EXIT_FAILURE)
    assert "next step" in capsys.readouterr().err

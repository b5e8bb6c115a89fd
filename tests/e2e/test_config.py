"""A config signed at a terminal reaches the application on every device of a real fleet."""

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from mailboat_controller.demo.fleet import Device, until
from real_fleet import running_fleet

pytestmark = pytest.mark.slow
WAIT_SECONDS = 240  # a busy machine


def test_a_config_signed_at_a_terminal_reaches_the_application(tmp_path: Path) -> None:
    with running_fleet(tmp_path / "fleet", devices_per_class=1) as real:
        fleet = real.fleet
        people = tmp_path / "paul"
        fleet.command(
            *("token", "issue", "paul", "--role", "approver", "--out", str(people)),
            *("--config", str(fleet.data / "controller.toml")),
        )
        device = next(iter(real.devices.values()))

        def approve(version: str, level: str, target: str, values: dict[str, Any]) -> None:
            content = {
                "apiVersion": "mailboat/v1",
                "kind": "Config",
                "metadata": {"name": "app", "version": version, "level": level, "target": target},
                "spec": {"values": values},
            }
            path = tmp_path / f"{level}-{version}.yaml"
            path.write_text(yaml.safe_dump(content))
            said = fleet.command(
                *("config", "approve", str(path), "--reason", "it is spring", "--yes"),
                *("--key", str(fleet.trust / "fleet" / "config.pem")),
                *("--connection", str(people / "connection.toml")),
            )
            assert said["status"] == "accepted", said

        report = fleet.get(f"/v1/devices/{device.name}")
        approve("1.0.0", "class", report["hardware_class"], {"gain": 1, "loud": True})
        until(
            "the class's values", lambda: _config(device) == {"gain": 1, "loud": True}, WAIT_SECONDS
        )
        approve("1.0.0", "device", device.name, {"gain": 5, "loud": None})
        until("its own values", lambda: _config(device) == {"gain": 5}, WAIT_SECONDS)
        until(
            "the controller knows",
            lambda: len(_reported(fleet, device).get("layers", ())) == 2,
            WAIT_SECONDS,
        )
        assert [each["level"] for each in _reported(fleet, device)["layers"]] == ["class", "device"]


def _config(device: Device) -> Any:
    try:
        serving = json.loads((device.directory / "data" / "serving.json").read_bytes())
        with urllib.request.urlopen(f"{serving['url']}/v1/config", timeout=5) as answer:  # noqa: S310
            return json.load(answer)
    except (OSError, ValueError):
        return None


def _reported(fleet: Any, device: Device) -> dict[str, Any]:
    report = fleet.get(f"/v1/devices/{device.name}")["report"] or {}
    return dict(report.get("config") or {})

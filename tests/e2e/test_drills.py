"""A drill through everything that is real: API, broker, agent processes, workers, metrics."""

import json
from pathlib import Path
from typing import Any

import psutil
import pytest

from mailboat_agent.cli import EXIT_OK
from mailboat_agent.cli import main as agent_command
from mailboat_controller.demo.fleet import Device, until
from real_fleet import RealFleet, running_fleet

pytestmark = pytest.mark.slow
SECONDS_MAX = 240  # a busy machine


def drills_of(fleet: RealFleet, device: str) -> Any:
    return fleet.fleet.get(f"/v1/devices/{device}/drills")


def ordered(fleet: RealFleet, device: str) -> str:
    """The id of a drill that was ordered as people do."""
    words = ["drill", "start", device, "--model", "vad", "--reason", "before the holidays"]
    (row,) = fleet.fleet.command(*words, "--connection", str(fleet.fleet.operator))["rows"]
    return str(row["order"])


def newest(fleet: RealFleet, device: str) -> dict[str, Any]:
    results: list[dict[str, Any]] = drills_of(fleet, device)["results"]
    return results[0] if results else {"order": "", "outcome": ""}


def workers_of(device: Device) -> set[int]:
    """Processes below the agent, as far as they run now."""
    process = psutil.Process(device.read("serving.json")["pid"])
    return {child.pid for child in process.children(recursive=True)}


def test_a_drill_by_order_by_hand_and_through_a_kill(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running_fleet(tmp_path / "fleet", devices_per_class=1) as fleet:
        fleet.publish("first", "1.0.0")
        fleet.wait_for("1.0.0")
        fleet.wait_until_completed("vad-first")
        fleet.publish("second", "1.0.1")
        fleet.wait_for("1.0.1")
        fleet.wait_until_completed("vad-second")
        name, device = next(iter(sorted(fleet.devices.items())))

        # By order of the centre.
        order = ordered(fleet, name)
        until("it is told", lambda: newest(fleet, name)["order"] == order, SECONDS_MAX)
        result = newest(fleet, name)
        assert (result["outcome"], result["version"], result["serving_version"]) == (
            "passed",
            "1.0.0",
            "1.0.1",
        ), result
        assert result["return_ms"] > 0
        assert drills_of(fleet, name)["orders"][0]["state"] == "answered"
        until(
            "the device shows it",
            lambda: (device.model().get("drill") or {}).get("outcome") == "passed",
            SECONDS_MAX,
        )

        # By somebody at the device.
        config = str(device.config)
        capsys.readouterr()
        assert agent_command(["drill", "--config", config, "--json", "--reason", "x"]) == EXIT_OK
        assert json.loads(capsys.readouterr().out)["vad"]["version"] == "1.0.0"

        # A power cut while one runs leaves no process, and the order is made good.
        serving = workers_of(device)
        order = ordered(fleet, name)
        until("a drill runs", lambda: workers_of(device) - serving, SECONDS_MAX)
        drilled = workers_of(device)
        device.process.kill()
        until("its workers are gone", lambda: not any(map(_runs, drilled)), SECONDS_MAX)
        device.process.start()
        until("it is told", lambda: newest(fleet, name)["order"] == order, SECONDS_MAX)
        assert newest(fleet, name)["outcome"] == "passed"
        kinds = [event["kind"] for event in fleet.fleet.events(name)]
        assert kinds.count("drill_passed") == 3
        assert "rolled_back" not in kinds


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False

"""kill -9 at random moments of a rollout: everything converges, every event arrives once."""

import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from mailboat_controller.demo.fleet import until
from real_fleet import CONVERGE_SECONDS_MAX, RealFleet, running_fleet

SEED = int(os.environ.get("MAILBOAT_KILL_SEED", "20261121"))  # printed when it fails
ROUNDS = 6
KILLS_PER_ROUND = 2
MOMENT_SECONDS_MAX = 3.0  # a rollout of two waves takes about four on an idle machine
AWAY_SECONDS_MAX = 1.0


class Killer:
    def __init__(self, fleet: RealFleet, rng: random.Random) -> None:
        self._fleet = fleet
        self._rng = rng
        self.killed: Counter[str] = Counter()

    def strike(self, target: str) -> None:
        """Kill one process without warning and start it again after a while."""
        fleet = self._fleet.fleet
        self.killed[target] += 1
        if target == "broker":
            # The controller looks after its broker and starts it again by itself.
            until("there is a broker to kill", self._broker_is_killed, CONVERGE_SECONDS_MAX)
            return
        process = fleet.controller
        if target == "agent":
            process = self._fleet.devices[self._rng.choice(sorted(self._fleet.devices))].process
        process.kill()
        time.sleep(self._rng.random() * AWAY_SECONDS_MAX)
        process.start()

    def _broker_is_killed(self) -> bool:
        """Not while it is away: its number may be somebody else's by then."""
        try:
            pid = int((self._fleet.fleet.data / "broker" / "mosquitto.pid").read_text())
            if "mosquitto" not in psutil.Process(pid).name():
                return False
            os.kill(pid, signal.SIGKILL)
        except (FileNotFoundError, ValueError, ProcessLookupError, psutil.NoSuchProcess):
            return False
        return True


@pytest.mark.slow
def test_a_kill_at_any_moment_loses_and_doubles_nothing(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    targets = ["broker", "controller", "agent"] * (ROUNDS * KILLS_PER_ROUND // 3)
    rng.shuffle(targets)
    with running_fleet(tmp_path / "fleet", devices_per_class=2) as fleet:
        fleet.publish("start", "1.0.0")
        fleet.wait_for("1.0.0")
        killer = Killer(fleet, rng)
        for number in range(1, ROUNDS + 1):
            version = f"1.0.{number}"
            pilots = "- pilots: [kiosk-1, gateway-1]\n    - percent: 100"
            fleet.publish(f"round-{number}", version, waves=pilots)
            for _ in range(KILLS_PER_ROUND):
                time.sleep(rng.random() * MOMENT_SECONDS_MAX)
                killer.strike(targets.pop())
            fleet.wait_for(version)
            # A newer rollout before this one is over would supersede it, and send devices back.
            fleet.wait_until_completed(f"vad-round-{number}")
        fleet.wait_for_confirmation()

        assert killer.killed == {"broker": 4, "controller": 4, "agent": 4}
        for device in fleet.devices.values():
            events = fleet.fleet.events(device.name)
            sequences = [event["sequence"] for event in events]
            assert sequences == list(range(1, fleet.events_told_by(device) + 1)), device.name
            for number in range(ROUNDS + 1):
                kinds = [e["kind"] for e in events if e["version"] == f"1.0.{number}"]
                if "restarted" in kinds[3:]:  # an agent that was killed after it had committed
                    kinds.remove("restarted")
                assert kinds == ["trial_started", "soak_started", "committed"], device.name

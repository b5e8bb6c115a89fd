"""Twenty real agents, a real controller, broker and TLS: releases go ring by ring. One ring has to
show restarts and a rollback drill under load; one ring halts on a release that is really bad."""

import re
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from mailboat_controller.client import ApiClient
from mailboat_controller.demo.fleet import until
from mailboat_controller.demo.models import VERSIONS, made_series, write_release_sources
from mailboat_controller.demo.traffic import Traffic
from real_fleet import RealFleet, running_fleet

RINGS = {"canary": 2, "early": 3, "stable": 5}  # devices of each of two classes
DEVICES = 2 * sum(RINGS.values())
CANARIES = ("kiosk-1", "kiosk-2", "gateway-1", "gateway-2")
EARLY = tuple(f"{family}-{n}" for family in ("kiosk", "gateway") for n in (3, 4, 5))
LOUD = frozenset({"kiosk-4", "gateway-3"})  # what only they are asked brings out D's defect
SOAK_SECONDS = 3.0
SOON_SECONDS_MAX = 300  # a busy machine; each takes some seconds on a quiet one
EVERYBODY_SECONDS_MAX = 900
BY_RINGS = """\
- {name: canary, percent: 100, ring: {ring: canary}%s}
    - {name: early, percent: 100, ring: {ring: early}}
    - {name: everybody, percent: 100}"""
RESTARTED, DRILLED = "device.restarted", "device.drill_passed"
SHOWS_MORE = ", gate: {clean_restarts: 2, rollback_drills: 1}"


def patient(source: str) -> str:
    """Twenty trials at a time on a busy machine: how quick a device is, is not what is asked."""
    for name, limit in (
        ("cold_start_ms_max", 300_000),
        ("latency_p95_ms_max", 30_000.0),
        ("deadline_seconds", 600),
    ):
        source = re.sub(rf"{name}: [0-9.]+", f"{name}: {limit}", source)
    return source


class Twenty:
    """What the story asks of the fleet."""

    def __init__(self, fleet: RealFleet) -> None:
        self.fleet, self.demo = fleet, fleet.fleet
        self.sources = write_release_sources(
            made_series(), self.demo.directory / "series", soak_seconds=SOAK_SECONDS
        )
        for path in self.sources.values():
            path.write_text(patient(path.read_text()))

    def publish(self, letter: str, waves: str) -> None:
        self.fleet.publisher.publish(letter.lower(), self.sources[letter], waves=waves)

    def rollout(self, letter: str) -> dict[str, Any]:
        found: dict[str, Any] = self.demo.get(f"/v1/rollouts/vad-{letter.lower()}")
        return found

    def phase(self, letter: str, phase: str) -> Callable[[], bool]:
        return lambda: bool(self.rollout(letter)["phase"] == phase)

    def all_run(self, letter: str, names: Iterable[str]) -> Callable[[], bool]:
        devices = [self.demo.devices[name] for name in names]

        def hold() -> bool:
            models = [device.model() for device in devices]
            return all(
                model.get("serving_version") == VERSIONS[letter]
                and model.get("phase") == "committed"
                for model in models
            )

        return hold

    def told(self, letter: str, kind: str) -> set[str]:
        """Devices that told the controller so of a release."""
        with ApiClient.open(self.demo.operator) as api:  # a handshake for all of them, not for each
            return {
                name
                for name in self.demo.devices
                for event in api.pages(f"/v1/devices/{name}/events", "id")
                if event["version"] == VERSIONS[letter] and event["kind"] == kind
            }

    def operator(self, *words: str) -> dict[str, Any]:
        return self.demo.command(*words, "--connection", str(self.demo.operator))

    def restart(self, names: Iterable[str]) -> None:
        """As a reboot does it: the agent is asked to stop, and started anew."""
        for name in names:
            self.demo.devices[name].process.stop()
            self.demo.devices[name].process.start()


def everybody_runs_a(twenty: Twenty) -> None:
    twenty.publish("A", "- percent: 100")
    until("A is completed", twenty.phase("A", "completed"), EVERYBODY_SECONDS_MAX)
    until("all run A", twenty.all_run("A", twenty.demo.devices), SOON_SECONDS_MAX)


def b_passes_ring_by_ring(twenty: Twenty) -> None:
    twenty.publish("B", BY_RINGS % SHOWS_MORE)
    until("the canaries run B", twenty.all_run("B", CANARIES), SOON_SECONDS_MAX)
    until(
        "the ring waits for what else it has to show",
        lambda: "came back from a restart" in twenty.rollout("B")["because"],
        SOON_SECONDS_MAX,
    )
    assert twenty.rollout("B")["waves_open"] == 1

    twenty.restart(CANARIES)
    until(
        "the ring has come back from restarts",
        lambda: "restart" not in twenty.rollout("B")["because"],
        SOON_SECONDS_MAX,
    )
    assert twenty.told("B", "restarted") == set(CANARIES)
    waiting = twenty.rollout("B")
    assert (waiting["waves_open"], "rollback drill under load" in waiting["because"]) == (1, True)
    assert twenty.told("B", "trial_started") == set(CANARIES)

    for name in ("kiosk-1", "gateway-1"):
        twenty.operator("drill", "start", name, "--reason", "before the next ring")
    until("B is completed", twenty.phase("B", "completed"), EVERYBODY_SECONDS_MAX)
    until("all run B", twenty.all_run("B", twenty.demo.devices), SOON_SECONDS_MAX)


def d_is_halted_in_its_ring(twenty: Twenty, traffic: Traffic) -> None:
    traffic.loud = LOUD
    failed_before = dict(traffic.failed)
    twenty.publish("D", BY_RINGS % "")
    until("D is halted", twenty.phase("D", "halted"), EVERYBODY_SECONDS_MAX)
    until("all run B again", twenty.all_run("B", twenty.demo.devices), SOON_SECONDS_MAX)
    exposed = twenty.told("D", "trial_started")
    until(
        "everybody who left D has told so",
        lambda: twenty.told("D", "returned") | twenty.told("D", "rolled_back") == exposed,
        SOON_SECONDS_MAX,
    )

    # Nobody beyond the two rings that were open ever tried it.
    assert set(CANARIES) <= exposed <= set(CANARIES) | set(EARLY)
    rolled_back = twenty.told("D", "rolled_back")
    assert rolled_back
    assert rolled_back <= LOUD
    halted = twenty.rollout("D")
    assert halted["waves_open"] == 2
    for counts in halted["classes"].values():
        assert counts["devices"] == counts["eligible"] + sum(counts["excluded"].values())
        assert counts["devices"] == sum(RINGS.values())
        assert counts["not_open"] == RINGS["stable"]
    # Going back failed nobody: what failed are the requests that D could not answer.
    failed = {name for name, count in traffic.failed.items() if count > failed_before.get(name, 0)}
    assert failed <= LOUD


def the_timeline_tells_it(twenty: Twenty) -> None:
    of_b = twenty.operator("timeline", "vad-b")["entries"]
    by = {what: {e["who"] for e in of_b if e["what"] == what} for what in (RESTARTED, DRILLED)}
    assert by == {RESTARTED: set(CANARIES), DRILLED: {"kiosk-1", "gateway-1"}}

    told = twenty.operator("timeline", "vad-d")
    entries = told["entries"]
    what = [entry["what"] for entry in entries]

    assert told["phase"] == "halted"
    assert told["threshold"].startswith("one failure halts")
    # As text, 12:00:00Z comes after 12:00:00.119Z.
    at = [datetime.fromisoformat(entry["at"]) for entry in entries]
    assert at == sorted(at)
    assert what.count("rollout.wave") == 2
    first_back = next(entry for entry in entries if entry["what"] == "device.rolled_back")
    assert first_back["who"] in LOUD
    assert first_back["threshold"] == "error_rate"
    assert first_back["resumed"]["version"] == VERSIONS["B"]
    assert 0 < first_back["resumed"]["seconds"] < SOON_SECONDS_MAX
    (halt,) = [entry for entry in entries if entry["what"] == "rollout.halted"]
    assert (halt["who"], halt["subject"]) == ("controller", "vad-d")
    # Where two have failed by the time the controller looks, it tells what one of them said.
    failures = [entry for entry in entries if entry["what"] == "device.rolled_back"]
    assert any(each["because"] in halt["because"] for each in failures)
    assert what.index("release.approve") < what.index("rollout.wave")
    assert what.index("rollout.wave") < what.index("device.rolled_back")
    assert what.index("device.rolled_back") < what.index("rollout.halted")
    assert told["resumed"] == {VERSIONS["B"]: len(twenty.told("D", "trial_started"))}


@pytest.mark.slow
@pytest.mark.timeout(3000)  # some three minutes by itself; waits of the story have their own bounds
def test_a_bad_release_halts_in_its_ring_and_everybody_serves_on(tmp_path: Path) -> None:
    with running_fleet(tmp_path, rings=RINGS) as fleet:
        twenty = Twenty(fleet)
        assert len(fleet.devices) == DEVICES
        with Traffic(fleet.fleet.serving_ports, seed=7, pause_seconds=0.1) as traffic:
            everybody_runs_a(twenty)
            b_passes_ring_by_ring(twenty)
            d_is_halted_in_its_ring(twenty, traffic)
        the_timeline_tells_it(twenty)

"""What really happened, asked of the controller's API and of the devices' own status files."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mailboat_controller.demo.fleet import Fleet
from mailboat_controller.demo.models import VERSIONS
from mailboat_controller.demo.narrator import StepFailed

EXPOSED = "trial_started"
COMMITTED = "committed"


class Observer:
    """Answers about releases by their letter in the story."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def all_run(self, letter: str, devices: Iterable[str]) -> Callable[[], bool]:
        names = tuple(devices)
        return lambda: all(self.stands(name, letter, COMMITTED) for name in names)

    def stands(self, device: str, letter: str, phase: str) -> bool:
        """Whether a device says so itself; needs no network."""
        model = self._fleet.devices[device].model()
        return model.get("serving_version") == VERSIONS[letter] and model.get("phase") == phase

    def serving(self) -> dict[str, str | None]:
        return {n: d.model().get("serving_version") for n, d in self._fleet.devices.items()}

    def rollout(self, letter: str) -> Mapping[str, Any]:
        status: Mapping[str, Any] = self._fleet.get(f"/v1/rollouts/vad-{letter.lower()}")
        return status

    def phase(self, letter: str, phase: str) -> Callable[[], bool]:
        return lambda: bool(self.rollout(letter)["phase"] == phase)

    def events(self, letter: str) -> list[tuple[str, dict[str, Any]]]:
        """Events about one release, over all devices, in the order the controller stored them."""
        found = [
            (name, event)
            for name in self._fleet.devices
            for event in self._fleet.events(name)
            if event["version"] == VERSIONS[letter]
        ]
        return sorted(found, key=lambda pair: pair[1]["id"])

    def exposed(self, letter: str) -> set[str]:
        return {name for name, event in self.events(letter) if event["kind"] == EXPOSED}

    def exposed_first(self, letter: str, pilots: Iterable[str]) -> tuple[set[str], set[str]]:
        """Who was exposed before all pilots had committed, and who after."""
        first: set[str] = set()
        later: set[str] = set()
        committed: set[str] = set()
        for name, event in self.events(letter):
            if event["kind"] == EXPOSED:
                (later if committed >= set(pilots) else first).add(name)
            elif event["kind"] == COMMITTED:
                committed.add(name)
        return first, later

    def last_event(self, letter: str, kind: str) -> dict[str, Any]:
        """
        Raises:
            StepFailed: no such event arrived.
        """
        events = [event for _, event in self.events(letter) if event["kind"] == kind]
        if not events:
            raise StepFailed(f"no {kind} event for {VERSIONS[letter]} arrived")
        return events[-1]

    def refusals(self, device: str) -> list[str]:
        """Codes with which a device refused whole manifests."""
        events = self._fleet.events(device)
        return [e["content"]["code"] for e in events if e["kind"] == "manifest_refused"]

    def confirmed(self, device: str) -> bool:
        """Whether the controller has every event the device ever told."""
        return self._fleet.devices[device].events_unconfirmed == 0

"""A real fleet for end-to-end tests: the demo's processes, quick releases, and what was told."""

import io
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from mailboat_controller.cli.demo import run_here
from mailboat_controller.demo.fleet import Device, Fleet, until
from mailboat_controller.demo.models import made_series, write_release_sources
from mailboat_controller.demo.narrator import Narrator
from mailboat_controller.demo.publisher import Publisher
from unused_port import unused_port

CONVERGE_SECONDS_MAX = 240  # a busy machine; some seconds on a quiet one


@contextmanager
def running_fleet(
    directory: Path, *, devices_per_class: int = 0, rings: Mapping[str, int] | None = None
) -> Iterator["RealFleet"]:
    """A controller with its broker and agents of two classes, as processes; stopped at the end.

    Args:
        rings: devices of each class by their label ``ring``, instead of ``devices_per_class``.
    """
    told = io.StringIO()
    fleet = Fleet(
        directory,
        Narrator(told, started=time.monotonic()),
        run_here,
        devices_per_class=devices_per_class,
        rings=rings,
        choose_port=unused_port,  # a controller that is killed finds it again
    )
    with fleet.wires:
        try:
            fleet.prepare()
            yield RealFleet(fleet)
        finally:
            fleet.stop()


class RealFleet:
    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.publisher = Publisher(fleet)
        self.devices = fleet.devices
        self._template = write_release_sources(
            made_series(), fleet.directory / "sources", soak_seconds=0.5
        )["A"]

    def source(self, version: str) -> Path:
        """Another version of a good release, which soaks for half a second without traffic."""
        content = yaml.safe_load(self._template.read_text())
        content["metadata"]["version"] = version
        for variant in content["spec"]["variants"]:
            variant["health"]["soak"] |= {"seconds": 0.5, "requests_min": 0}
        path = self._template.with_name(f"release-{version}.yaml")
        path.write_text(yaml.safe_dump(content))
        return path

    def publish(self, name: str, version: str, *, waves: str = "- percent: 100") -> None:
        self.publisher.publish(name, self.source(version), waves=waves)

    def wait_for(self, version: str, phase: str = "committed") -> None:
        for device in self.devices.values():
            until(
                f"{device.name} has {phase} {version}",
                lambda device=device: _stands(device, version, phase),
                CONVERGE_SECONDS_MAX,
            )

    def wait_until_completed(self, rollout: str) -> None:
        until(
            f"{rollout} is completed",
            lambda: self.fleet.get(f"/v1/rollouts/{rollout}")["phase"] == "completed",
            CONVERGE_SECONDS_MAX,
        )

    def wait_for_confirmation(self) -> None:
        for device in self.devices.values():
            until(
                f"{device.name} is confirmed",
                lambda device=device: device.events_unconfirmed == 0,
                CONVERGE_SECONDS_MAX,
            )

    def events_told_by(self, device: Device) -> int:
        """How many events a device ever numbered, from its own journal."""
        journal = sqlite3.connect(f"file:{device.directory}/data/journal.db?mode=ro", uri=True)
        try:
            rows = journal.execute("SELECT value FROM meta WHERE name = 'events_given'")
            found: Any = rows.fetchone()
        finally:
            journal.close()
        return int(found[0]) if found else 0


def _stands(device: Device, version: str, phase: str) -> bool:
    model = device.model()
    return model.get("serving_version") == version and model.get("phase") == phase

"""What a simulated device lives in: time, chance, a network, and the releases there are."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from mailboat_controller.simulate.agenda import Agenda
from mailboat_controller.simulate.network import Network
from mailboat_controller.simulate.releases import SimulatedRelease
from mailboat_controller.simulate.weather import CALM, Weather
from mailboat_schemas.events import Event


class Watch(Protocol):
    """Who looks on. Two real ones: `exposure.Exposure`, and the oracle of `tests/simulation`."""

    def told(self, device: str, hardware_class: str, event: Event, epoch: str) -> None:
        """A device has put an event into its outbox, for good."""

    def exposed(self, device: str, hardware_class: str, digest: str) -> None:
        """A device has recorded a release as its candidate."""

    def drilled(self, device: str, digest: str) -> None:
        """A device begins a rollback drill of a release."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    tries: int = 3  # as in AgentConfig
    trial_seconds: float = 60.0
    look_seconds: float = 0.0  # between two looks at nothing new; 0 = none
    start_jitter_seconds: float = 0.0
    bytes_per_second: float = 1 << 20
    boot_seconds: float = 40.0
    latency_seconds: float = 0.2
    hello_when_idle: bool = True  # False spares a large fleet two messages at each connection


@dataclass(slots=True, kw_only=True)
class Surroundings:
    agenda: Agenda
    rng: random.Random
    network: Network
    watch: Watch
    timing: Timing
    weather: Weather = CALM
    # A device begins to fetch a release: what its controller notes of that.
    redeemed: Callable[[str, str], None]
    releases: dict[str, SimulatedRelease] = field(default_factory=dict)
    downloaded_bytes: int = 0
    downloads: int = 0

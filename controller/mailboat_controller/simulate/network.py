"""A broker and links that lose, double and delay; what it retains is one manifest a class."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mailboat_controller.simulate.agenda import Agenda
from mailboat_controller.simulate.told import Manifest
from mailboat_controller.simulate.weather import CALM, Weather
from mailboat_schemas.topics import Channel

if TYPE_CHECKING:
    from mailboat_controller.simulate.device import SimulatedDevice

MANIFEST_BYTES = 7_000  # five models of ten releases, DESIGN section 4
HISTORY_MAX = 64  # manifests of a class, acks of a device that a hostile broker may replay


@dataclass(slots=True)
class Traffic:
    messages_up: int = 0
    messages_down: int = 0
    bytes_up: int = 0
    bytes_down: int = 0


class Network:
    """``to_controller`` is set by whoever builds the fleet."""

    def __init__(self, agenda: Agenda, rng: random.Random, latency_seconds: float) -> None:
        self._agenda = agenda
        self._rng = rng
        self._latency_seconds = latency_seconds
        self.weather: Weather = CALM
        self.traffic = Traffic()
        self.retained: dict[str, Manifest] = {}
        self.history: dict[str, list[Manifest]] = {}  # all that was ever published, oldest first
        self.online: dict[str, set[SimulatedDevice]] = {}  # by class
        # By device, where somebody wants to replay them: what it was sent, oldest first.
        self.acks: dict[str, list[bytes]] | None = None
        self.published = 0  # manifests, by the controller
        self.to_controller: Callable[[str, Channel, bytes], Any] = _nobody

    # --- links ------------------------------------------------------------------------------------

    def connected(self, device: "SimulatedDevice") -> None:
        """The broker hands out what it retains."""
        self.online.setdefault(device.hardware_class, set()).add(device)
        manifest = self.retained.get(device.hardware_class)
        if manifest is not None:
            self.hand_manifest(device, manifest)

    def disconnected(self, device: "SimulatedDevice") -> None:
        self.online.get(device.hardware_class, set()).discard(device)

    def hand_manifest(self, device: "SimulatedDevice", manifest: Manifest) -> None:
        self._down(MANIFEST_BYTES)
        self._send(device.hear_manifest, device.connection, manifest)

    # --- what is sent -----------------------------------------------------------------------------

    def publish(self, manifest: Manifest) -> None:
        """Retained, and to everybody of the class who is connected."""
        self.published += 1
        self.retained[manifest.hardware_class] = manifest
        history = self.history.setdefault(manifest.hardware_class, [])
        history.append(manifest)
        del history[:-HISTORY_MAX]
        # In an order that is the same in every run: sets of objects are not.
        for device in sorted(self.online.get(manifest.hardware_class, ()), key=_number):
            self.hand_manifest(device, manifest)

    def assert_retained(self) -> None:
        """The controller says again what the broker should retain. Those who have it are spared:
        they would find nothing new, and a fleet of them is large."""
        for manifest in list(self.retained.values()):
            online = self.online.get(manifest.hardware_class, ())
            behind = [device for device in online if device.manifest is not manifest]
            for device in sorted(behind, key=_number):
                self.hand_manifest(device, manifest)

    def forget(self) -> None:
        """The broker has lost what it retained, and every session."""
        self.retained.clear()
        for devices in self.online.values():
            for device in sorted(devices, key=_number):
                device.drop_link()

    def up(self, device: "SimulatedDevice", channel: Channel, payload: bytes) -> None:
        self.traffic.messages_up += 1
        self.traffic.bytes_up += len(payload)
        self._send(self.to_controller, device.device, channel, payload)

    def ack(self, device: "SimulatedDevice", payload: bytes) -> None:
        self._down(len(payload))
        if self.acks is not None:
            held = self.acks.setdefault(device.device, [])
            held.append(payload)
            del held[:-HISTORY_MAX]
        self._send(device.hear_ack, device.connection, payload)

    def _down(self, length: int) -> None:
        self.traffic.messages_down += 1
        self.traffic.bytes_down += length

    def _send(self, deliver: Callable[..., Any], *told: Any) -> None:
        weather, rng = self.weather, self._rng
        if weather.drop and rng.random() < weather.drop:
            return
        self._agenda.after(self._takes_seconds(), deliver, *told)
        if weather.duplicate and rng.random() < weather.duplicate:
            self._agenda.after(self._takes_seconds(), deliver, *told)

    def _takes_seconds(self) -> float:
        late = self.weather.late_seconds
        jitter = self._rng.random() * self._latency_seconds
        return self._latency_seconds + jitter + (self._rng.expovariate(1 / late) if late else 0.0)


def _number(device: "SimulatedDevice") -> int:
    return device.enrolment_number


def _nobody(device: str, channel: Channel, payload: bytes) -> None:
    del device, channel, payload

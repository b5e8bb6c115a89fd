"""A simulated fleet: devices, a broker, a controller, and one agenda for all of them."""

import random
from collections.abc import Mapping

from mailboat_agent.update.state import DeviceState
from mailboat_controller.simulate.agenda import OVER, Agenda
from mailboat_controller.simulate.controller import ControllerDied, SimulatedController
from mailboat_controller.simulate.device import SimulatedDevice
from mailboat_controller.simulate.network import Network
from mailboat_controller.simulate.registry import Enrolled
from mailboat_controller.simulate.releases import NO_SITE, SimulatedRelease
from mailboat_controller.simulate.surroundings import Surroundings, Timing, Watch
from mailboat_controller.simulate.weather import Weather
from mailboat_schemas.topics import Channel


class Fleet:
    """``reconcile_seconds``: from news to the next decision; news that comes meanwhile waits."""

    def __init__(
        self,
        *,
        starts: float,
        seed: int,
        classes: tuple[str, ...],
        timing: Timing,
        watch: Watch,
        reconcile_seconds: float,
    ) -> None:
        self.agenda = Agenda(starts)
        self.rng = random.Random(seed)  # noqa: S311  a story told again
        self.network = Network(self.agenda, self.rng, timing.latency_seconds)
        self.network.to_controller = self.to_controller
        self.controller = SimulatedController(self.network, lambda: self.agenda.now, classes)
        self.around = Surroundings(
            agenda=self.agenda,
            rng=self.rng,
            network=self.network,
            watch=watch,
            timing=timing,
            redeemed=self.controller.redeem,
        )
        self.devices: dict[str, SimulatedDevice] = {}
        self._reconcile_seconds = reconcile_seconds
        self._reconcile_is_due = False

    def set_weather(self, weather: Weather) -> None:
        self.around.weather = self.network.weather = weather

    def add_release(self, release: SimulatedRelease) -> None:
        self.around.releases[release.digest] = release

    def enrol(
        self,
        name: str,
        hardware_class: str,
        labels: Mapping[str, str] | None = None,
        record: DeviceState | None = None,
        site: str = NO_SITE,
    ) -> SimulatedDevice:
        """The next device, off the air; its controller knows it from now on."""
        number = len(self.devices) + 1
        own = {} if labels is None else labels
        device = SimulatedDevice(
            self.around, name, hardware_class, number, own, record or DeviceState(), site
        )
        self.devices[name] = device
        self.controller.enrol(
            Enrolled(
                device=name,
                hardware_class=hardware_class,
                enrolment_number=number,
                labels=own,
                site=site,
            )
        )
        return device

    # --- the controller ---------------------------------------------------------------------------

    def to_controller(self, device: str, channel: Channel, payload: bytes) -> SimulatedController:
        """A message that has arrived: stored, and only then acknowledged."""
        try:
            ack, changed = self.controller.take(device, channel, payload, self._dies)
        except ControllerDied:
            return self.controller
        self.network.ack(self.devices[device], ack)
        if changed:
            self.reconcile_soon()
        return self.controller

    def reconcile_soon(self) -> None:
        if not self._reconcile_is_due:
            self._reconcile_is_due = True
            self.agenda.after(self._reconcile_seconds, self.reconcile)

    def reconcile(self) -> SimulatedController:
        self._reconcile_is_due = False
        self.controller.reconcile()
        return self.controller

    def _dies(self) -> bool:
        share = self.around.weather.controller_dies
        return share > 0 and self.rng.random() < share

    # --- time -------------------------------------------------------------------------------------

    def run(self, until: float) -> None:
        """Until so many seconds since 1970, or until nothing is left to happen."""
        step, over = self.agenda.step, OVER
        while step(until) is not over:
            pass

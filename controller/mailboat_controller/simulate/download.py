"""The download of a release, one at a time: the agent's `Fetching` without a network and files."""

from typing import TYPE_CHECKING

from mailboat_agent.update.retry import retry_delay_seconds
from mailboat_agent.update.steps import Stage, Step
from mailboat_schemas import cohort

if TYPE_CHECKING:
    from mailboat_controller.simulate.device import SimulatedDevice


class Download:
    """``digest`` is of the release that is being fetched; empty: none. ``came_to_nothing``: of the
    one whose last download did."""

    __slots__ = (
        "_at", "_began", "_device", "_failed", "_number", "came_to_nothing", "digest",
        "waits_for_link",
    )  # fmt: skip

    def __init__(self, device: "SimulatedDevice") -> None:
        self._device = device
        self._failed = 0  # one after the other
        self._number = 0  # of a download that ends: is it the one that was begun last?
        self.digest = ""
        self.stop()

    def stop(self) -> None:
        """What a process does not outlive."""
        self._note_part()
        self.digest = ""
        self.came_to_nothing = ""
        self.waits_for_link = False
        self._at = self._began = 0.0

    def forget_failures(self) -> None:
        self.came_to_nothing = ""
        self._at = 0.0
        self._failed = 0

    def stage(self, step: Stage) -> None:
        device, agenda = self._device, self._device.around.agenda
        digest, timing = step.candidate.digest, self._device.around.timing
        self.waits_for_link = not device.online
        if self.digest or not device.online or device.muted:
            return
        if not self._at and timing.start_jitter_seconds:
            jitter = timing.start_jitter_seconds * cohort.start_fraction(digest, device.device)
            self._at = agenda.now + jitter
            device.later(jitter + 0.001, device.look)
        if agenda.now < self._at:
            return
        release = device.around.releases[digest]
        seconds = release.size_bytes / timing.bytes_per_second - device.disk.parts.get(digest, 0.0)
        self.digest, self._began = digest, agenda.now
        device.around.redeemed(device.device, digest)
        self._number += 1
        device.later(max(0.1, seconds), self._fetched, self._number, digest)

    def _fetched(self, number: int, digest: str) -> None:
        if number != self._number or self.digest != digest:
            return
        device, around = self._device, self._device.around
        release = around.releases[digest]
        self.digest = ""
        device.disk.parts.pop(digest, None)
        around.downloads += 1
        around.downloaded_bytes += release.size_bytes
        weather = around.weather
        as_asked = not (weather.corrupt and around.rng.random() < weather.corrupt)
        device.moment()
        if device.disk.put(release.files, as_asked=as_asked):
            self.came_to_nothing, self._failed = "", 0
            device.look()
            return
        self.came_to_nothing = digest
        wait = retry_delay_seconds(self._failed, around.rng)
        self._failed += 1
        self._at = around.agenda.now + wait
        device.later(wait + 0.001, device.look)

    def drop_if_pointless(self, step: Step) -> None:
        """When nobody wants it any more."""
        if self.digest and not (isinstance(step, Stage) and step.candidate.digest == self.digest):
            self._drop()

    def on_link(self) -> bool:
        """Whether it waited for that."""
        waited, self.waits_for_link = self.waits_for_link, False
        return waited

    def on_link_down(self) -> None:
        if self.digest:
            self._drop()
            self.waits_for_link = True

    def _drop(self) -> None:
        self._note_part()
        self.digest = ""
        self._number += 1

    def _note_part(self) -> None:
        if self.digest:
            disk, began = self._device.disk, self._began
            done = self._device.around.agenda.now - began
            disk.parts[self.digest] = disk.parts.get(self.digest, 0.0) + done

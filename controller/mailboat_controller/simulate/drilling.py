"""Rollback drills of one device by the schedule of its policy: as `drill.watch` of the agent.

What is drilled, what stands in the way, which period it is and what is recorded are the agent's
own; how long it takes is made up, and it fails where a return would. Nothing that serves changes.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

from mailboat_agent.drill.record import DrillRecord, DrillResult, ModelDrills
from mailboat_agent.drill.telling import drill_event
from mailboat_agent.update.drill import (
    NOTHING_TO_GO_BACK_TO,
    TRIES_MAX,
    Surroundings,
    drill_target,
    in_the_way,
    pause_seconds,
    period_number,
)
from mailboat_agent.update.events import milliseconds
from mailboat_agent.update.state import Installed
from mailboat_controller.simulate.releases import MODEL, Fault
from mailboat_controller.simulate.waiting import NextLook
from mailboat_schemas.drills import DrillOutcome
from mailboat_schemas.switch_timing import earliest, in_window

if TYPE_CHECKING:
    from mailboat_controller.simulate.device import SimulatedDevice


class Drilling:
    """``record`` is durable."""

    __slots__ = (
        "_device", "_given_up", "_next_look", "_not_before", "_number", "record", "running",
    )  # fmt: skip

    def __init__(self, device: "SimulatedDevice") -> None:
        self._device = device
        self.record = DrillRecord()
        self._number = 0
        self._next_look = NextLook(device)
        self.stop()

    def stop(self) -> None:
        """What a process does not outlive."""
        self.running: Installed | None = None
        self._number += 1  # of a drill that ends: is it the one that was begun last?
        self._given_up = 0
        self._not_before = 0.0
        self._next_look.forget()

    @property
    def drills(self) -> ModelDrills:
        return self.record.of(MODEL)

    def tell_again(self) -> None:
        last = self.drills.last
        if last is not None:
            self._device.post.tell(drill_event(MODEL, last))

    # --- look -------------------------------------------------------------------------------------

    def look(self) -> None:
        """Raises PowerCut, before or after what it records."""
        device = self._device
        every_days = device.rules.rules.drill_every_days
        if self.running is not None:
            self._give_up_if_it_must(self.running)
        elif every_days and device.clock_trusted:
            self._begin_if_due(every_days)

    def _begin_if_due(self, every_days: int) -> None:
        device, drills = self._device, self.drills
        period = period_number(device.device, MODEL, every_days, device.now)
        newest = drills.period
        if newest is None or newest > period + 1 or drills.every_days != every_days:
            self._note(replace(drills, period=period, every_days=every_days))
        elif period <= newest or device.around.agenda.now < self._not_before:
            return
        elif self.record.has_answered(f"due-{period}", MODEL):  # by a clock that was ahead then
            self._note(replace(drills, period=period, every_days=every_days))
        elif in_window(device.rules.rules, None, 0, device.now, clock_trusted=True)[0]:
            self._begin(f"due-{period}", period)
        else:
            self._next_look.not_before([earliest(device.rules.rules, None, 0, device.now)])

    def _begin(self, order: str, period: int) -> None:
        device, drills = self._device, self.drills
        target = drill_target(device.work.situation())
        if self._in_the_way() or target.waits:
            return
        tries = drills.tries if drills.begun == order else 0
        if tries >= TRIES_MAX:
            because = f"none of {TRIES_MAX} attempts came to an end"
            self._end(order, period, DrillOutcome.FAILED, "tries_exhausted", because, None)
        elif target.release is None:
            outcome = DrillOutcome.FAILED if target.is_failure else DrillOutcome.SKIPPED
            self._end(order, period, outcome, NOTHING_TO_GO_BACK_TO, target.because, None)
        else:
            device.moment()
            self._note(replace(drills, begun=order, tries=tries + 1))
            device.moment()
            self.running = target.release
            self._number += 1
            device.around.watch.drilled(device.device, target.release.digest)
            seconds = device.around.timing.trial_seconds
            device.later(seconds, self._over, self._number, order, period)

    def _in_the_way(self) -> str:
        device, work = self._device, self._device.work
        active = device.state.active
        is_up = active is not None and work.serving == active.digest
        around = Surroundings(
            clock_trusted=device.clock_trusted,
            serves=is_up or active is None,
            at_work=MODEL if work.is_open else "",
        )
        return in_the_way(around)[0]

    # --- while it runs ----------------------------------------------------------------------------

    def _give_up_if_it_must(self, running: Installed) -> None:
        target = drill_target(self._device.work.situation())
        elsewhere = target.release is None or target.release.digest != running.digest
        if elsewhere or self._in_the_way():
            self.running = None
            self._number += 1
            self._given_up += 1
            self._not_before = self._device.around.agenda.now + pause_seconds(self._given_up)
            self._note(replace(self.drills, begun="", tries=0))

    def _over(self, number: int, order: str, period: int) -> None:
        device, release = self._device, self.running
        if number != self._number or release is None:
            return
        self._give_up_if_it_must(release)
        if self.running is None:
            return
        self.running, self._given_up = None, 0
        drilled = device.around.releases[release.digest]
        fault = drilled.fault_on(device.device)
        if not device.disk.is_whole(drilled.files):
            device.disk.set_rotten_aside()
            because = "its files were damaged"
            self._end(order, period, DrillOutcome.FAILED, "storage_damaged", because, release)
            device.look()
        elif fault is Fault.REBOOT:
            device.power_cut()
        elif fault is Fault.TRIAL:
            because = "it answers otherwise"
            self._end(order, period, DrillOutcome.FAILED, "output_mismatch", because, release)
        else:
            because = f"{release.version} could take over"
            self._end(order, period, DrillOutcome.PASSED, "", because, release)

    def _end(
        self,
        order: str,
        period: int,
        outcome: DrillOutcome,
        code: str,
        because: str,
        release: Installed | None,
    ) -> None:
        """Recorded first, told once that is durable."""
        device, serving = self._device, self._device.state.serving
        result = DrillResult(
            order=order,
            outcome=outcome,
            at=milliseconds(device.now),
            code=code,
            because=because,
            version=None if release is None else release.version,
            digest=None if release is None else release.digest,
            serving_version=None if serving is None else serving.version,
        )
        device.moment()
        record = self.record.ended(MODEL, result)
        self.record = record.with_model(MODEL, replace(record.of(MODEL), period=period))
        device.moment()
        self.tell_again()

    def _note(self, drills: ModelDrills) -> None:
        self.record = self.record.with_model(MODEL, drills)

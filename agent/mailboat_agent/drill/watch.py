"""When a drill begins, when it has to give up, and what is recorded and told of it.

One at a time on a device, and after everything else: an update, a way back, a withdrawal, a busy
application, heat, a weak battery. What is given up is begun again later, until its order expires.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Mapping

from mailboat_agent.background import in_background
from mailboat_agent.drill import requests
from mailboat_agent.drill.book import DrillBook
from mailboat_agent.drill.requests import Request
from mailboat_agent.drill.running import DrillRun, Finding
from mailboat_agent.drill.telling import for_people
from mailboat_agent.errand import Kind
from mailboat_agent.facts import Device, Look
from mailboat_agent.ledger import Ledger
from mailboat_agent.model_loop import ModelLoop
from mailboat_agent.update.drill import (
    NOTHING_TO_GO_BACK_TO,
    PAUSE_SECONDS,
    TRIES_MAX,
    Surroundings,
    in_the_way,
    pause_seconds,
    period_number,
)
from mailboat_agent.update.state import Installed
from mailboat_agent.work import Workbench
from mailboat_schemas.drills import DrillOutcome, ReportedDrill
from mailboat_schemas.policy_rules import NO_RULES, Rules
from mailboat_schemas.switch_timing import in_window

DRILL_SECONDS_MAX = 1800.0  # from its begin; a release's own deadline is mostly far below
LOCAL_MAX = 16  # requests of somebody at the device that wait
_log = logging.getLogger(__name__)


class DrillWatch:
    """`step` at every look. Times are of the monotonic clock."""

    def __init__(
        self,
        *,
        device: Device,
        ledger: Ledger,
        bench: Workbench,
        pressure: Callable[[], str] = str,
        rules: Callable[[], Rules] = lambda: NO_RULES,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        """``pressure`` is the word of heat or power, or empty; ``rules`` have the schedule."""
        self._device = device
        self._ledger = ledger
        self._bench = bench
        self._pressure = pressure
        self._rules = rules
        self._wake = wake
        self._book = DrillBook(bench.store.data_dir, ledger)
        self._not_before = -math.inf
        self._given_up = 0  # in a row
        self._local: list[Request] = []
        self._taken = -1  # number of the newest request of somebody here
        self._waits: dict[str, str] = {}  # why, by model
        self._run: DrillRun | None = None
        self._task: asyncio.Task[Finding] | None = None
        self._request = Request(order="", model="", reason="")
        self._began = 0.0

    def reported(self, model: str) -> ReportedDrill | None:
        return self._book.saved.of(model).reported()

    def for_people(self) -> dict[str, object]:
        running = {self._request.model: self._request.reason} if self._task is not None else {}
        return for_people(self._book.saved, running, self._waits)

    @property
    def running(self) -> bool:
        return self._task is not None

    def step(self, loops: Mapping[str, ModelLoop], look: Look) -> None:
        self._take_local(loops)
        if self._task is not None:
            if not self._task.done():
                self._give_up_if_it_must(loops, look)
                return
            self._collect(self._task, look)
        if not self._book.is_in_order(look.monotonic):
            return
        self._waits = {}
        for request in self._requests(loops, look):
            if self._begins(request, loops, look):
                return

    def close(self) -> None:
        """The agent was told to stop: that is no attempt that failed."""
        if self._run is not None and self._task is not None:
            self._run.end("the agent stops")
            self._task.cancel()
            self._book.forget_attempt(self._request.model)

    # --- what is asked for -----------------------------------------------------------------------

    def _take_local(self, loops: Mapping[str, ModelLoop]) -> None:
        found = requests.take_away(self._bench.store.data_dir)
        if found is None or found.number == self._taken:
            return
        self._taken = found.number
        for model in sorted(loops) if not found.model else [found.model]:
            reason = f"on the device: {found.reason}"
            request = Request(order=found.order, model=model, reason=reason)
            if len(self._local) < LOCAL_MAX and not self._book.has_answered(request):
                self._local.append(request)

    def _requests(self, loops: Mapping[str, ModelLoop], look: Look) -> list[Request]:
        """In the order in which they are begun: people first."""
        wanted = [*self._local, *requests.ordered(self._device.order, loops, self._book.record)]
        rules = self._rules()
        if rules.drill_every_days and look.clock_trusted:
            due = (self._due(model, rules, look) for model in sorted(loops))
            wanted += [request for request in due if request is not None]
        return wanted

    def _due(self, model: str, rules: Rules, look: Look) -> Request | None:
        """The schedule's drill of this period, if it is still to come and a window is open."""
        drills, every_days = self._book.of(model), rules.drill_every_days
        period = period_number(self._device.device, model, every_days, look.now)
        newest = drills.period
        # One far ahead comes from a clock that was wrong then.
        if newest is None or newest > period + 1 or drills.every_days != every_days:
            self._book.begin_periods(model, period, every_days)
        elif period > newest:
            request = Request(
                order=f"{requests.DUE}-{period}",
                model=model,
                reason=f"the schedule, every {every_days} days",
            )
            if self._book.has_answered(request):  # by a clock that was ahead then
                self._book.begin_periods(model, period, every_days)
                return None
            is_open, because = in_window(rules, None, 0, look.now, clock_trusted=True)
            if not is_open:
                self._waits[model] = because
                return None
            return request
        return None

    # --- begin -----------------------------------------------------------------------------------

    def _begins(self, request: Request, loops: Mapping[str, ModelLoop], look: Look) -> bool:
        """Whether one runs now. One that will never begin is answered at once."""
        model = request.model
        loop = loops.get(model)
        if loop is None:
            because = f"this device has nothing to do with a model {model}"
            self._skip(request, "no_such_model", because, look)
            return False
        target = loop.drill_target(look)
        word, because = self._in_the_way(loop, loops, look)
        if not word and target.waits:
            word, because = target.waits, target.because
        expired = request.expires is not None and look.now.timestamp() >= request.expires
        if expired and look.clock_trusted:
            because = f"the order has expired; {because or 'it came too late'}"
            self._skip(request, word or "expired", because, look)
            return False
        if word or look.monotonic < self._not_before:
            self._waits.setdefault(model, because or "a drill was given up not long ago")
            return False
        if self._book.attempts(request) >= TRIES_MAX:
            because = f"none of {TRIES_MAX} attempts came to an end: the agent ended before"
            self._end(
                request, DrillOutcome.FAILED, "tries_exhausted", because, target.release, look
            )
            return False
        if target.release is None:
            outcome = DrillOutcome.FAILED if target.is_failure else DrillOutcome.SKIPPED
            self._end(request, outcome, NOTHING_TO_GO_BACK_TO, target.because, target.release, look)
            return False
        document = loop.view.document(target.release.digest)
        if document is None:
            because = f"the document of {target.release.version} is not on this device"
            self._end(
                request, DrillOutcome.FAILED, "storage_damaged", because, target.release, look
            )
            return False
        if not self._book.count_attempt(request):
            self._not_before = look.monotonic + PAUSE_SECONDS
            self._waits[model] = "the disk takes no record of it"
            return False
        run = DrillRun(document, target.release.digest, self._bench)
        self._begin(request, run, look)
        return True

    def _begin(self, request: Request, run: DrillRun, look: Look) -> None:
        _log.info("%s: a rollback drill begins (%s)", request.model, request.reason)
        self._request, self._run, self._began = request, run, look.monotonic
        work = in_background(run.run, name=f"drill-{request.model}")
        self._task = asyncio.create_task(work, name=f"drill of {request.model}")
        self._task.add_done_callback(lambda _: self._wake())

    def _in_the_way(
        self, loop: ModelLoop, loops: Mapping[str, ModelLoop], look: Look
    ) -> tuple[str, str]:
        serving, active = self._bench.serving(loop.model), loop.state.active
        at_work = (
            each.model
            for each in loops.values()
            if each.work is not None and each.work.kind is not Kind.STAGE
        )
        is_up = active is not None and serving is not None and serving.digest == active.digest
        return in_the_way(
            Surroundings(
                clock_trusted=look.clock_trusted,
                # With nothing installed there is nothing to wait for either.
                serves=is_up or active is None,
                at_work=next(at_work, ""),
                busy=self._bench.busy.now,
                pressure=self._pressure(),
            )
        )

    # --- while it runs ---------------------------------------------------------------------------

    def _give_up_if_it_must(self, loops: Mapping[str, ModelLoop], look: Look) -> None:
        run, request = self._run, self._request
        if run is None or run.given_up:
            return
        loop = loops.get(request.model)
        because = "its model is gone" if loop is None else ""
        if loop is not None:
            target = loop.drill_target(look)
            _, because = self._in_the_way(loop, loops, look)
            if target.release is None or target.release.digest != run.digest:
                because = because or target.because or "a rollback would go elsewhere by now"
            if not self._still_wanted(request):
                because = "it was taken back"
        if look.monotonic - self._began > DRILL_SECONDS_MAX:
            because = f"it was not over after {DRILL_SECONDS_MAX:g} s"
        if because:
            run.give_up(because)

    def _still_wanted(self, request: Request) -> bool:
        if request.expires is None:
            return True
        order = self._device.order
        return order is not None and any(each.order == request.order for each in order.drills)

    def _collect(self, task: "asyncio.Task[Finding]", look: Look) -> None:
        run, request = self._run, self._request
        self._task = self._run = None
        if task.cancelled() or run is None:
            return
        error = task.exception()
        if run.given_up:
            _log.info("%s: the drill was given up: %s", request.model, run.given_up_because)
            self._given_up += 1
            self._not_before = look.monotonic + pause_seconds(self._given_up)
            self._book.forget_attempt(self._request.model)
            if look.monotonic - self._began > DRILL_SECONDS_MAX:
                self._skip(request, "time", run.given_up_because, look)
            return
        self._given_up = 0
        if error is not None:
            _log.error("A drill failed unexpectedly", exc_info=error)
            because = f"{type(error).__name__}: {error}"
            self._skip(request, "device", because, look)
            return
        finding = task.result()
        self._ledger.tell_tampering(run.digest, finding.error, look.now)
        self._conclude(request, run, finding, look)

    def _conclude(self, request: Request, run: DrillRun, finding: Finding, look: Look) -> None:
        self._local = [each for each in self._local if each != request]
        self._book.answer(
            request,
            finding.outcome,
            look.now,
            code=finding.code,
            because=finding.because or f"{run.version} could take over",
            release=Installed(version=run.version, digest=run.digest),
            evidence=dict(finding.evidence),
        )

    def _skip(self, request: Request, code: str, because: str, look: Look) -> None:
        self._end(request, DrillOutcome.SKIPPED, code, because, None, look)

    def _end(
        self,
        request: Request,
        outcome: DrillOutcome,
        code: str,
        because: str,
        release: Installed | None,
        look: Look,
    ) -> None:
        """One that was not begun, or that says nothing."""
        _log.info("%s: drill %s: %s", request.model, outcome, because)
        self._local = [each for each in self._local if each != request]
        self._book.answer(request, outcome, look.now, code=code, because=because, release=release)

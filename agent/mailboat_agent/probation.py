"""The time in which a release must prove itself: what this process knows of the attempt it runs.

The record counts attempts; this remembers the one that is running, and is lost with the process.
"""

from mailboat_agent.serving.window import ServingStats
from mailboat_agent.update.soak import Judgement, SoakStats, judge_soak
from mailboat_schemas.documents.health import Soak


class Probation:
    def __init__(self) -> None:
        self.running = False
        self.trial_passed = False
        self._soak_began: float | None = None

    def begin(self) -> None:
        """An attempt runs from here on; a soak counts from its first look at what serves."""
        self.running = True
        self._soak_began = None

    def ended_trial(self, *, passed: bool) -> None:
        self.running = False
        self.trial_passed = passed

    def forget(self) -> None:
        self.running = self.trial_passed = False
        self._soak_began = None

    @property
    def is_open(self) -> bool:
        """Whether an attempt was begun that is not over, or has passed and not been recorded."""
        return self.running or self.trial_passed

    def judge(self, soak: Soak, stats: ServingStats, monotonic: float) -> Judgement:
        """How live traffic went since the soak began. ``stats`` are of the release that soaks."""
        if self._soak_began is None:
            self._soak_began = monotonic
        seen = SoakStats(
            requests_ok=stats.requests_ok,
            requests_error=stats.requests_error,
            p95_ms=stats.latency_p95_ms,
            worker_restarts=stats.worker_restarts,
            ready=stats.ready,
        )
        return judge_soak(soak, seen, monotonic - self._soak_began)

"""The time in which a release must prove itself: what this process knows of the attempt it runs.

The record counts attempts; this remembers the one that is running, and is lost with the process.
"""

from collections.abc import Mapping
from typing import Any

from mailboat_agent.serving.feedback import Posted
from mailboat_agent.serving.trial import TrialReport
from mailboat_agent.serving.trial_evidence import trial_figures
from mailboat_agent.serving.window import ServingStats
from mailboat_agent.update.soak import Judgement, SoakStats, judge_soak
from mailboat_schemas.documents.health import Soak
from mailboat_schemas.live_figures import Shift


class Probation:
    def __init__(self) -> None:
        self.running = False
        self._trial: TrialReport | None = None
        self._shadow: Judgement | None = None
        self._soak_began: float | None = None
        self._posted_before: Posted | None = None

    def begin(self, posted: Posted | None = None) -> None:
        """An attempt runs from here on; a soak counts from its first look at what serves.

        ``posted`` is what the application has said of the release before, which does not count.
        """
        self.running = True
        self._shadow = None
        self._soak_began = None
        self._posted_before = posted

    def ended_trial(self, report: TrialReport | None) -> None:
        """None: it did not pass."""
        self.running = False
        self._trial = report

    def ended_shadow(self, judgement: Judgement) -> None:
        self._shadow = judgement

    def forget(self) -> None:
        self.running = False
        self._trial = None
        self._shadow = None
        self._soak_began = None
        self._posted_before = None

    @property
    def is_open(self) -> bool:
        """Whether an attempt was begun that is not over, or has passed and not been recorded."""
        return self.running or self.trial_passed

    @property
    def trial_passed(self) -> bool:
        return self._trial is not None

    @property
    def shadow_over(self) -> bool:
        return self._shadow is not None

    @property
    def evidence(self) -> Mapping[str, Any]:
        """What came of trial and shadow, to be told as the release begins to serve."""
        told: dict[str, Any] = {}
        if self._trial is not None:
            told["trial"] = trial_figures(self._trial)
        if self._shadow is not None:
            told["shadow"] = {"because": self._shadow.because, **self._shadow.evidence}
        return told

    def judge(
        self,
        soak: Soak,
        stats: ServingStats,
        monotonic: float,
        *,
        posted: Posted | None = None,
        shifts: tuple[Shift, ...] = (),
    ) -> Judgement:
        """How live traffic went since the soak began. All figures are of the release that soaks."""
        if self._soak_began is None:
            self._soak_began = monotonic
        since = Posted("") if posted is None else posted.since(self._posted_before)
        seen = SoakStats(
            requests_ok=stats.requests_ok,
            requests_error=stats.requests_error,
            p95_ms=stats.latency_p95_ms,
            worker_restarts=stats.worker_restarts,
            ready=stats.ready,
            errors_in_a_row=stats.errors_in_a_row,
            counters=since.counters,
            values=since.values,
            shifts=shifts,
        )
        return judge_soak(soak, seen, monotonic - self._soak_began)

"""The degraded modes by their words, and how many answers of each there were."""

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

CALM_SECONDS = 60.0  # without a degraded answer: then the mode is over
MODELS_MAX = 256  # that are counted; what a device serves is far below


class Mode(StrEnum):
    """Which one answered; the words of the response header, of reports and of telemetry."""

    FALLBACK_RELEASE = "fallback-release"  # the declared fallback serves
    FALLBACK_MODEL = "fallback-model"  # another model of this device
    FALLBACK_RULE = "fallback-rule"  # a constant
    NEIGHBOUR = "neighbour"
    REMOTE = "remote"
    CACHE = "cache"
    LOW_CONFIDENCE = "low-confidence"  # the release's own answer, unsure, and none better
    SMALLER_MODEL = "smaller-model"  # under pressure


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a model is answered at the moment. ``last_at`` is monotonic seconds."""

    mode: Mode
    because: str
    last_at: float
    answers: int  # in a degraded mode, since the agent began


class Counts:
    """Written by the gateway's thread, read by the agent's main thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._total: dict[str, Counter[Mode]] = {}
        self._window: dict[str, Counter[Mode]] = {}
        self._standings: dict[str, Standing] = {}

    def count(self, model: str, mode: Mode, because: str, now: float) -> None:
        with self._lock:
            if model not in self._total and len(self._total) >= MODELS_MAX:
                return
            self._total.setdefault(model, Counter())[mode] += 1
            self._window.setdefault(model, Counter())[mode] += 1
            self._standings[model] = Standing(
                mode=mode, because=because, last_at=now, answers=self._total[model].total()
            )

    def drain(self, model: str) -> Mapping[str, int]:
        """Since the last drain, by word. One caller; what it takes is gone."""
        with self._lock:
            return {str(mode): n for mode, n in self._window.pop(model, Counter()).items()}

    def totals(self) -> dict[str, dict[str, int]]:
        with self._lock:
            return {
                model: {str(mode): n for mode, n in sorted(counter.items())}
                for model, counter in sorted(self._total.items())
            }

    def now_degraded(self, now: float) -> dict[str, Standing]:
        """Models that were answered in a degraded mode within the last `CALM_SECONDS`."""
        with self._lock:
            return {
                model: standing
                for model, standing in sorted(self._standings.items())
                if now - standing.last_at < CALM_SECONDS
            }

"""Does a release hold on live traffic? Silence is neither health nor failure: it waits."""

from dataclasses import dataclass
from enum import StrEnum

from mailboat_schemas.documents.health import Soak

RESTARTS_FAIL = 2  # one restart may be the machine's doing; two in one soak are the release's


class Verdict(StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    WAIT = "wait"


@dataclass(frozen=True, slots=True, kw_only=True)
class SoakStats:
    """What happened since the soak began. ``p95_ms`` is None while nothing was measured."""

    requests_ok: int
    requests_error: int
    p95_ms: float | None
    worker_restarts: int
    ready: bool = True  # whether its worker stands

    @property
    def requests(self) -> int:
        return self.requests_ok + self.requests_error


@dataclass(frozen=True, slots=True)
class Judgement:
    """``code`` is a stable word, empty unless it fails."""

    verdict: Verdict
    because: str
    code: str = ""


def judge_soak(soak: Soak, stats: SoakStats, elapsed_seconds: float) -> Judgement:
    """Pass, fail, or wait and say for what."""
    breach = _breach(soak, stats, elapsed_seconds)
    if breach is not None:
        return breach
    if elapsed_seconds < soak.seconds:
        return Judgement(
            Verdict.WAIT, f"soaking for {soak.seconds:g} s, {elapsed_seconds:.0f} s have passed"
        )
    if not stats.ready:
        return Judgement(Verdict.WAIT, "its worker process is being started again")
    if stats.requests < soak.requests_min:
        return Judgement(
            Verdict.WAIT, f"{stats.requests} of at least {soak.requests_min} requests were served"
        )
    return Judgement(
        Verdict.PASSED,
        f"{stats.requests_ok} of {stats.requests} requests were answered in "
        f"{elapsed_seconds:.0f} s of soak",
    )


def _breach(soak: Soak, stats: SoakStats, elapsed_seconds: float) -> Judgement | None:
    if stats.worker_restarts >= RESTARTS_FAIL:
        return Judgement(
            Verdict.FAILED, f"its worker process died {stats.worker_restarts} times", "crashed"
        )
    enough = stats.requests >= soak.breach_requests_min or elapsed_seconds >= soak.seconds
    if stats.requests == 0 or not enough:
        return None
    error_rate = stats.requests_error / stats.requests
    if error_rate > soak.error_rate_max:
        return Judgement(
            Verdict.FAILED,
            f"{stats.requests_error} of {stats.requests} requests failed "
            f"({error_rate:.1%}, allowed {soak.error_rate_max:.1%})",
            "error_rate",
        )
    limit_ms = soak.latency_p95_ms_max
    if limit_ms is not None and stats.p95_ms is not None and stats.p95_ms > limit_ms:
        return Judgement(
            Verdict.FAILED,
            f"p95 latency is {stats.p95_ms:.1f} ms, allowed {limit_ms:g} ms",
            "latency_exceeded",
        )
    return None

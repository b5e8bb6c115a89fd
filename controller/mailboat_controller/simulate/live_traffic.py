"""The live traffic of a release in its soak: enough of it, and good or bad from one moment on."""

from mailboat_agent.update.soak import SoakStats

REQUESTS = 1000
BREACH_SHARE = 0.4  # of the soak: when a release that fails on live traffic has failed often enough


def stats_of(*, elapsed_seconds: float, soak_seconds: float, fails: bool) -> SoakStats:
    broken = fails and elapsed_seconds >= soak_seconds * BREACH_SHARE
    served = 0 if elapsed_seconds <= 0 else REQUESTS
    return SoakStats(
        requests_ok=0 if broken else served,
        requests_error=served if broken else 0,
        p95_ms=5.0,
        worker_restarts=0,
    )


def next_look_seconds(*, elapsed_seconds: float, soak_seconds: float, fails: bool) -> float:
    """Until the traffic says something new."""
    breach_at = soak_seconds * BREACH_SHARE
    ends = breach_at if fails and elapsed_seconds < breach_at else soak_seconds
    return max(1.0, ends - elapsed_seconds)

"""Synthetic traces of one wave: when each device is exposed, and when it says what.

Hours from the wave's opening. Four traces, named; each is a story about devices, not a fit to data:

``reference``  kiosks on the line: exposed after an hour on average, a verdict two hours later, 2 %
               never answer again, whatever runs there
``prompt``     always-on gateways: exposed within minutes, a verdict within the hour, 0.5 % lost
``daily``      vans that come home at night: exposed some time within the first ten hours, the
               verdict at the next contact, a few hours later, 1 % lost
``flaky``      bad links: as reference, but 5 % never answer again

In all of them a failure takes an hour longer to tell than a good verdict, and 30 % of the devices
that fail never tell: they are off the air.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

FAILURE_HOURS = 1.0  # later than a good verdict
FAILED_SILENTLY = 0.3
TRIAL_HOURS = 0.25  # nobody has a verdict sooner
NEVER = math.inf


@dataclass(frozen=True, slots=True)
class Trace:
    name: str
    exposed: Callable[[Random], float]
    verdict: Callable[[Random], float]  # after exposure
    lost: float  # share that is never heard of again, whatever runs there


@dataclass(frozen=True, slots=True)
class Device:
    """``told_at`` is `NEVER` for a device without a verdict."""

    exposed_at: float
    told_at: float
    failed: bool


TRACES = (
    Trace("reference", lambda rng: rng.expovariate(1), lambda rng: rng.expovariate(1 / 2), 0.02),
    Trace("prompt", lambda rng: rng.expovariate(4), lambda rng: rng.expovariate(2), 0.005),
    Trace("daily", lambda rng: rng.uniform(0, 10), lambda rng: rng.expovariate(1 / 3), 0.01),
    Trace("flaky", lambda rng: rng.expovariate(1), lambda rng: rng.expovariate(1 / 2), 0.05),
)


def run(trace: Trace, devices: int, broken: float, rng: Random) -> list[Device]:
    """One wave of so many devices with a release that fails on this share of them."""
    return [_device(trace, broken, rng) for _ in range(devices)]


def _device(trace: Trace, broken: float, rng: Random) -> Device:
    exposed_at = trace.exposed(rng)
    failed = rng.random() < broken
    gone = rng.random() < trace.lost or (failed and rng.random() < FAILED_SILENTLY)
    told_at = exposed_at + TRIAL_HOURS + trace.verdict(rng) + (FAILURE_HOURS if failed else 0)
    return Device(exposed_at, NEVER if gone else told_at, failed)

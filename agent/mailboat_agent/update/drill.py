"""Which release a rollback drill is of, when one may go on, and when the next is due. Pure.

What is drilled is where a rollback would go at this moment, by the very rule that it would go by.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime

from mailboat_agent.update.refuge import refuge
from mailboat_agent.update.situation import Situation, lacking, may_serve
from mailboat_agent.update.state import Installed
from mailboat_schemas.reports import ModelPhase

NOTHING_TO_GO_BACK_TO = "nothing_to_go_back_to"
DAY_SECONDS = 86_400
TRIES_MAX = 2  # attempts that a crash or a power cut may end
PAUSE_SECONDS, PAUSE_SECONDS_MAX = 60.0, 900.0  # after a drill was given up


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """``release`` None: nothing can be drilled. ``is_failure``: there was one, and it is no more;
    ``waits``: it cannot be said yet."""

    release: Installed | None = None
    because: str = ""
    is_failure: bool = False
    waits: str = ""


def drill_target(situation: Situation) -> Target:
    """Where a rollback of what serves would go now."""
    state = situation.state
    if situation.known is None:
        return Target(waits="trust", because="trust metadata on this device does not verify")
    if state.active is None:
        return Target(because="no release to go back to: none is installed")
    if state.phase is not ModelPhase.COMMITTED:
        return Target(waits="under_way", because=f"the model is {state.phase}, not committed")
    found = refuge(situation)
    if found is not None:
        return Target(release=found)
    before = state.previous
    if before is None:
        because = "no release to go back to: none ran here before the one that serves"
        return Target(because=because)
    because = f"no release to go back to: {before.version} {_why_not(situation, before)}"
    return Target(because=because, is_failure=True)


def _why_not(situation: Situation, release: Installed) -> str:
    if not may_serve(situation, release):
        return "is not approved any more"
    missing = lacking(situation, release)
    if missing is None:
        return "has no document on this device"
    return f"lacks {len(missing)} of its files on this device"


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What else goes on. ``pressure`` is the word of heat or power, or empty; ``at_work`` names a
    model that is tried, loaded or going back now; ``serves`` says that the drilled model's own
    release is up."""

    clock_trusted: bool
    serves: bool
    at_work: str = ""
    busy: bool = False
    pressure: str = ""


def in_the_way(around: Surroundings) -> tuple[str, str]:
    """Why no drill may begin, or go on, now: a word, and the reason for people; both empty if
    nothing is in the way. Everything else on the device comes first."""
    if around.at_work:
        return "under_way", f"{around.at_work} is being tried, loaded or left"
    if around.busy:
        return "busy", "the application says that it is busy"
    if around.pressure:
        return around.pressure, f"the device is under pressure ({around.pressure})"
    if not around.clock_trusted:
        return "clock", "the clock is not trusted, so nobody knows whether the order still counts"
    if not around.serves:
        return "starting", "what serves is not up yet"
    return "", ""


def period_number(device: str, model: str, every_days: int, now: datetime) -> int:
    """The running number of the period that ``now`` is in. Each device's periods begin at another
    moment, by its hash: a fleet does not drill in step."""
    period = every_days * DAY_SECONDS
    lot = hashlib.sha256(f"drill\0{device}\0{model}".encode()).digest()
    offset = int.from_bytes(lot[:8]) % period
    return (int(now.timestamp()) - offset) // period


def pause_seconds(given_up: int) -> float:
    """How long after one was given up, the so many times in a row, the next may begin. It doubles:
    where something always comes first, drills take no turn and write nothing every minute."""
    doublings = min(max(0, given_up - 1), 16)
    return min(PAUSE_SECONDS * 2.0**doublings, PAUSE_SECONDS_MAX)

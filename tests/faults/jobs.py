"""What the runner runs: pieces of the three harnesses, each small enough for two cores to share."""

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from tests.faults import kill_harness
from tests.faults.kill_harness import Point, calls_of, in_a_child, points_of
from tests.faults.mutants import MUTANTS, Mutant
from tests.faults.power_harness import Thoroughness, cut_power
from tests.faults.scenes import SCENES, Scene, scene
from tests.faults.strace_agent import AgentUnderStrace
from tests.faults.strace_kills import run_strace, sampled, strace_catches, strace_points

CHUNK_POINTS = 60  # of harness A, about six seconds
# Every call of an install and of short stories; of the others every fourth, by a seed.
# `--thorough` takes all of all.
EACH_CALL_OF = "install of a whole release"
EACH_OTHER = 4
SHORT_CALLS = 150
STRACE_POINTS = 36  # of a scene, of harness B
AGENT_POINTS = 10  # on the real agent, seconds each
MUTANT_STATES = 250  # of a scene, of harness C
POWER_SCENES_EACH = 1  # scenes that a planted defect is looked for in
HARNESSES = ("A", "B", "C")


@dataclass(slots=True)
class Result:
    """What came of one job. ``counted`` is by what was done; ``caught`` by mutant and harness."""

    counted: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    caught: dict[tuple[str, str], str] = field(default_factory=dict)
    skipped: str = ""


@dataclass(frozen=True, slots=True)
class Job:
    """``weight``: expected seconds, the longest go first."""

    name: str
    work: Callable[[], Result]
    weight: float = 1.0


def jobs(*, only: str, thorough: bool, untraceable: str) -> Iterator[Job]:
    """``only`` is empty or some of A, B, C, M; ``untraceable`` why strace cannot be used."""
    wanted = only or "ABCM"
    if "A" in wanted:
        yield from _kills(thorough=thorough)
    traced = [] if untraceable else [each for each in "BC" if each in wanted]
    if "B" in traced:
        yield Job("B the real agent", _real_agent, 60)
        for each in SCENES:
            yield Job(f"B {each.name}", partial(_strace, each, thorough=thorough), 15)
    if "C" in traced:
        for each in SCENES:
            yield Job(f"C {each.name}", partial(_power, each), 25)
    if "M" in wanted:
        for mutant in MUTANTS:
            yield Job(f"mutant, A: {mutant.name}", partial(_mutant_in_a, mutant), 2)
            if not untraceable:
                yield Job(f"mutant, C: {mutant.name}", partial(_mutant_in_c, mutant), 10)
                if not mutant.only_power:
                    yield Job(f"mutant, B: {mutant.name}", partial(_mutant_in_b, mutant), 10)


def _kills(*, thorough: bool) -> Iterator[Job]:
    for each in SCENES:
        calls = calls_of(each)
        all_of_it = thorough or each.name == EACH_CALL_OF or len(calls) <= SHORT_CALLS
        every = 1 if all_of_it else EACH_OTHER
        points = points_of(each, calls, thorough=thorough, each=every)
        random.Random(each.name).shuffle(points)  # so that every chunk takes about as long
        for start in range(0, len(points), CHUNK_POINTS):
            chunk = points[start : start + CHUNK_POINTS]
            yield Job(f"A {each.name} {start}", partial(_kill, chunk), 6)


def _kill(points: Sequence[Point]) -> Result:
    began = time.monotonic()
    tally = kill_harness.run(points)
    counted = Counter({f"A {fault}": number for fault, number in tally.points.items()})
    kills = sum(n for fault, n in tally.points.items() if fault.startswith("killed"))
    counted["A kills"], counted["A points"] = kills, tally.total
    counted["A stopped"] = tally.stopped
    counted["A ms"] = int(1000 * (time.monotonic() - began))
    return Result(counted, tally.violations)


def _strace(chosen: Scene, *, thorough: bool) -> Result:
    points = strace_points(chosen)
    tally = run_strace(points if thorough else sampled(points, STRACE_POINTS))
    counted = Counter({f"B {fault}": number for fault, number in tally.points.items()})
    counted["B points"], counted["B ms"] = tally.total, int(1000 * tally.seconds)
    return Result(counted, tally.violations)


def _real_agent() -> Result:
    with AgentUnderStrace.ready() as agent:
        tally = agent.run(agent.points(AGENT_POINTS))
    counted = Counter({"B agent points": tally.total, "B agent ms": int(1000 * tally.seconds)})
    return Result(counted, tally.violations)


def _power(chosen: Scene) -> Result:
    tally = cut_power(chosen)
    counted = Counter(
        {
            "C states": tally.total,
            "C distinct": sum(tally.distinct.values()),
            "C generated": sum(tally.generated.values()),
            "C fully": tally.fully,
            "C ms": int(1000 * tally.seconds),
        }
    )
    return Result(counted, tally.violations)


# --- planted defects ------------------------------------------------------------------------------


def _mutant_in_a(mutant: Mutant) -> Result:
    found, tried = kill_harness.catches(mutant)
    return Result(Counter({"mutant points": tried}), caught={(mutant.name, "A"): found})


def _mutant_in_b(mutant: Mutant) -> Result:
    def look() -> str:
        mutant.plant()
        return strace_catches([scene(mutant.scenes[0])])

    status, found = in_a_child(look)
    assert status == 0, found
    return Result(caught={(mutant.name, "B"): str(found)})


def _mutant_in_c(mutant: Mutant) -> Result:
    thoroughness = Thoroughness(MUTANT_STATES, full_check_each=20, stop_at_first=True)
    found = ""
    for name in mutant.scenes[:POWER_SCENES_EACH]:
        try:
            violations = cut_power(scene(name), thoroughness, plant=mutant.plant).violations
        except AssertionError as error:
            violations = [f"undisturbed: {error}"]
        except Exception as error:  # noqa: BLE001 - the story itself fails with the defect
            violations = [f"undisturbed: {type(error).__name__}: {error}"]
        found = found or next(iter(violations), "")
    return Result(caught={(mutant.name, "C"): found})

"""Harness A: a process dies, or its disk refuses, at every single thing it does to the disk.

A warm parent has imported everything; each point costs two forks: one that runs the story into the
fault, one that looks at what is left. Dying keeps what the kernel has been told, so this finds
wrong order and half-done work; what a power cut takes besides is harness C's.
"""

import gc
import json
import os
import random
import shutil
import signal
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests.faults.acknowledged import Acknowledged, told_path
from tests.faults.injection import KILLED, Fault, Injection, injected
from tests.faults.mutants import Mutant
from tests.faults.scenes import CRASHED, GAVE_UP, Scene, act_as_a_process, scene, scratch

REFUSALS = (Fault.EIO, Fault.ENOSPC, Fault.EROFS)
REFUSAL_EACH = 6  # of so many calls, three are refused: one for each kind of refusal
SECOND_CRASH_EACH = 8  # of so many kill points, one is followed by a crash in the start after it
SECOND_CRASH_POINTS = 40  # which dies at one of the first so many things it does
MUTANT_POINTS_MAX = 120  # of a scene; a defect that harness A can see shows at one in fifty or more
ONLY_POWER_POINTS = 8  # where it can see nothing, it looks a few times all the same
FAILED = 1  # exit status: an exception that no story may end in


@dataclass(frozen=True, slots=True)
class Point:
    """One run: at the ``number``-th call of a scene this happens, and perhaps once more."""

    scene: Scene
    number: int
    fault: Fault
    call: str = ""
    second: int | None = None

    def __str__(self) -> str:
        again = "" if self.second is None else f", then again at {self.second}"
        return f"{self.scene.name}: {self.fault} at {self.number} ({self.call}){again}"


@dataclass(slots=True)
class Tally:
    points: Counter[str] = field(default_factory=Counter)  # by fault
    scenes: Counter[str] = field(default_factory=Counter)
    stopped: int = 0  # stories that came to a stop on a refusing disk, in good order
    violations: list[str] = field(default_factory=list)

    def add(self, other: "Tally") -> None:
        self.points.update(other.points)
        self.scenes.update(other.scenes)
        self.stopped += other.stopped
        self.violations += other.violations

    @property
    def total(self) -> int:
        return sum(self.points.values())


def calls_of(scene: Scene) -> list[str]:
    """What a whole run does to the disk, in order; up to the first crash by its own release."""
    with device_directory(scene) as directory:
        injection = Injection(directory, -1, Fault.KILL_BEFORE)
        names = directory.with_name("names")

        def act() -> None:
            with injected(injection), patch.object(os, "_exit", over):
                assert act_as_a_process(scene, directory) == 0
            over(0)

        def over(_: int) -> None:
            names.write_text(json.dumps(injection.names))
            signal.raise_signal(signal.SIGKILL)  # the real one is what was patched

        _, said = in_a_child(act)
        assert names.exists(), f"{scene.name} does not come to its end undisturbed\n{said}"
        found: list[str] = json.loads(names.read_text())
        return found


def points_of(
    scene: Scene, calls: Sequence[str], *, thorough: bool = False, each: int = 1
) -> list[Point]:
    """Kill points at ``each``-th call of a scene, and refusals at some of them; ``thorough``: all.

    Killed after a call is killed before the next, only that less was promised: once, at the end.
    """
    rng = random.Random(scene.name)
    found = []
    for number, call in enumerate(calls):
        if number % each != rng.randrange(each) and number != len(calls) - 1:
            continue
        found.append(Point(scene, number, Fault.KILL_BEFORE, call))
        if call in ("write", "pwrite"):
            found.append(Point(scene, number, Fault.KILL_WITHIN, call))
        if thorough or number == len(calls) - 1:
            found.append(Point(scene, number, Fault.KILL_AFTER, call))
        refusals = REFUSALS if thorough else REFUSALS[rng.randrange(REFUSAL_EACH) :][:1]
        found += [Point(scene, number, fault, call) for fault in refusals]
        if rng.randrange(SECOND_CRASH_EACH) == 0:
            second = rng.randrange(SECOND_CRASH_POINTS)
            found.append(Point(scene, number, Fault.KILL_BEFORE, call, second))
    return found


def violations_at(point: Point) -> tuple[list[str], bool]:
    """What is wrong after it, and whether the story came to a stop in good order."""
    with device_directory(point.scene) as directory:
        status, problem = _run_into(point, point.number, directory)
        if point.second is not None and not problem:
            _, problem = _run_into(point, point.second, directory)
        if problem:
            return [f"{point}: {problem}"], False

        def check() -> list[str]:
            return point.scene.check(directory, Acknowledged.of(directory))

        failed, found = in_a_child(check)
        if failed:
            return [f"{point}: the check itself failed: {found}"], False
        return [f"{point}: {each}" for each in found], status == GAVE_UP


def _run_into(point: Point, number: int, directory: Path) -> tuple[int, str]:
    """The status of a run that meets the fault; a problem if it ended as none may."""

    def act() -> int:
        with injected(Injection(directory, number, point.fault)):
            return act_as_a_process(point.scene, directory)

    for _ in range(point.scene.crashes_max + 1):
        status, said = in_a_child(act)
        if status == CRASHED:
            continue
        if status == KILLED:
            return status, ""
        if status != 0:
            return status, f"the story ended in {said}"
        if said == GAVE_UP and point.fault not in REFUSALS:
            return GAVE_UP, "the story came to a stop"
        return int(said), ""
    return CRASHED, f"its release took the device down {point.scene.crashes_max + 1} times"


def in_a_child(work: Callable[[], Any]) -> tuple[int, Any]:
    """Exit status and what it returned (JSON); after an exception FAILED and the traceback."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ours)
        try:
            answer, status = work(), 0
        except BaseException:  # noqa: BLE001 - the child must never return into its parent
            answer, status = traceback.format_exc()[-3000:], FAILED
        with open(theirs, "wb", buffering=0) as pipe:  # noqa: PTH123 - a descriptor
            pipe.write(json.dumps(answer).encode())
        os._exit(status)
    os.close(theirs)
    with open(ours, "rb") as pipe:  # noqa: PTH123 - a descriptor
        said = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status, json.loads(said) if said else None


@contextmanager
def device_directory(scene: Scene) -> Iterator[Path]:
    """A device at rest, gone afterwards with what was told about it."""
    parent = Path(tempfile.mkdtemp(prefix="mailboat-fault-", dir=scratch()))
    try:
        directory = parent / "device"
        scene.prepare(directory)
        yield directory
    finally:
        shutil.rmtree(parent, ignore_errors=True)


def run(points: Iterable[Point], *, until_violation: bool = False) -> Tally:
    """Every point; or, for a planted defect, up to the first that shows it."""
    tally = Tally()
    gc.freeze()  # what the parent holds is never copied to be counted
    for point in points:
        found, stopped = violations_at(point)
        tally.points[str(point.fault) if point.second is None else "killed twice"] += 1
        tally.scenes[point.scene.name] += 1
        tally.stopped += stopped
        tally.violations += found
        if found and until_violation:
            break
    return tally


def catches(mutant: Mutant) -> tuple[str, int]:
    """The first violation that a planted defect leads to ("" if none does), and after how many
    points: those of its scenes, in a seeded order, so that the first ones are of everywhere."""

    def look() -> tuple[str, int]:
        mutant.plant()
        tried = 0
        for name in mutant.scenes:
            chosen = scene(name)
            try:
                calls = calls_of(chosen)
            except AssertionError as error:  # it does not even come to its end undisturbed
                return str(error).splitlines()[0], tried
            points = [
                Point(chosen, number, Fault.KILL_BEFORE, call) for number, call in enumerate(calls)
            ]
            random.Random(1).shuffle(points)
            points_max = ONLY_POWER_POINTS if mutant.only_power else MUTANT_POINTS_MAX
            for point in points[:points_max]:
                tried += 1
                found, _ = violations_at(point)
                if found:
                    return found[0], tried
        return "", tried

    status, said = in_a_child(look)
    assert status == 0, said
    return str(said[0]), int(said[1])


__all__ = ["Point", "Tally", "calls_of", "points_of", "run", "told_path", "violations_at"]

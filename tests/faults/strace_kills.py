"""Harness B: strace kills a process before its n-th system call of a kind, or makes the call fail.

Unlike harness A this meets the calls that SQLite makes for itself. strace counts for each thread
of its own, so the story runs in one thread here (`in_one_thread`); each point is then one call, and
the log of the run tells whether that very call was met.
"""

import os
import random
import re
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

from tests.faults.acknowledged import Acknowledged, told_path
from tests.faults.scenes import CRASHED, GAVE_UP, Scene, act_as_a_process, scratch
from tests.faults.traced_log import Call, read_calls
from tests.faults.traced_run import FAILED, StoryFailed, traced

from mailboat_agent import background

# Everything with which the agent or SQLite changes a disk. A kill before a call is a kill after the
# one before it.
CALLS = (
    "openat,write,writev,pwrite64,ftruncate,fallocate,fsync,fdatasync,fchmod,rename,renameat,"
    "renameat2,link,linkat,symlink,unlink,unlinkat,mkdir,mkdirat,rmdir"
)
_NEEDS_SPACE = ("openat", "write", "writev", "pwrite64", "ftruncate", "fallocate", "mkdir", "link")
_READS_ONLY = re.compile(r"^(?!.*O_CREAT).*O_RDONLY")
# Paths are needed whole, what is written is not.
_LOG_OPTIONS = ("-y", "-xx", "-s", "4096")
VIOLATIONS_TOLD_MAX = 20
SEED = 20261121
MUTANT_POINTS = 40  # of a scene, for a planted defect; harness A goes over all of them


class Fault(StrEnum):
    KILL = "signal=KILL"
    EIO = "error=EIO"
    ENOSPC = "error=ENOSPC"


@dataclass(frozen=True, slots=True)
class Point:
    """The ``number``-th call of this name (from 1) that the first thread makes."""

    scene: Scene
    call: str
    number: int
    fault: Fault
    place: str  # what it was about in the run without faults, for the report

    def __str__(self) -> str:
        about = f"{self.call} no. {self.number} ({self.place})"
        return f"{self.scene.name}: {self.fault} at {about}"


@dataclass(slots=True)
class StraceTally:
    """``missed`` points never came up: the story took another way this time."""

    points: Counter[str] = field(default_factory=Counter)  # that were met, by fault
    scenes: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)  # by name
    missed: int = 0
    stopped: int = 0  # stories that came to a stop in good order at an error
    seconds: float = 0.0
    violations: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        return sum(self.points.values())

    def add(self, other: "StraceTally") -> None:
        self.points.update(other.points)
        self.scenes.update(other.scenes)
        self.calls.update(other.calls)
        self.missed += other.missed
        self.stopped += other.stopped
        self.seconds += other.seconds
        self.violations += other.violations


def strace_points(
    scene: Scene,
    *,
    errors_each: int = 4,
    plant: Callable[[], object] = lambda: None,
) -> list[Point]:
    """A kill before each call with which the story changes its directory, and at one of so many
    calls an error as well; counted in a run without faults."""
    with _device(scene) as directory:
        log = directory.with_name("log")
        status = traced(_acting(scene, directory, plant), log, options=_LOG_OPTIONS, calls=CALLS)
        if status not in (0, CRASHED):
            raise StoryFailed(f"{scene.name} ended with status {status}")
        with log.open() as lines:
            calls = [call for call in read_calls(lines) if isinstance(call, Call)]
    points = []
    seen: Counter[str] = Counter()
    first_thread = calls[0].thread
    for call in calls:
        if call.thread != first_thread:
            continue
        seen[call.name] += 1
        place = place_of(call, directory)
        if place is None or call.result < 0:
            continue
        points.append(Point(scene, call.name, seen[call.name], Fault.KILL, place))
        if len(points) % errors_each == 0 and not call.name.startswith("unlink"):
            fault = Fault.ENOSPC if call.name in _NEEDS_SPACE else Fault.EIO
            points.append(Point(scene, call.name, seen[call.name], fault, place))
    return points


def sampled(points: Sequence[Point], points_max: int, seed: int = SEED) -> list[Point]:
    """So many of them, chosen with a seed, in their order."""
    if len(points) <= points_max:
        return list(points)
    chosen = random.Random(seed).sample(range(len(points)), points_max)
    return [points[index] for index in sorted(chosen)]


def run_strace(
    points: Sequence[Point],
    *,
    plant: Callable[[], object] = lambda: None,
    stop_at_first: bool = False,
) -> StraceTally:
    """Each point: a device at rest, the story under strace into the fault, then the check."""
    began = time.monotonic()
    tally = StraceTally()
    for point in points:
        found = _at(point, plant, tally)
        if found and len(tally.violations) < VIOLATIONS_TOLD_MAX:
            tally.violations += [f"{point}: {each}" for each in found]
        if found and stop_at_first:
            break
    tally.seconds = time.monotonic() - began
    return tally


def strace_catches(scenes: Sequence[Scene]) -> str:
    """What the harness finds first in these scenes, "" if nothing; for a process in which a defect
    has been planted, and with it in the agent that starts after the kill."""
    for scene in scenes:
        try:
            points = strace_points(scene)
        except StoryFailed as error:
            return f"without any kill: {error}"
        found = run_strace(sampled(points, MUTANT_POINTS), stop_at_first=True).violations
        if found:
            return found[0]
    return ""


def _at(point: Point, plant: Callable[[], object], tally: StraceTally) -> list[str]:
    with _device(point.scene) as directory:
        log = directory.with_name("log")
        status = traced(
            _acting(point.scene, directory, plant),
            log,
            options=_LOG_OPTIONS,
            calls=point.call,
            inject=f"{point.call}:{point.fault}:when={point.number}",
        )
        if not _was_met(point, directory, log):
            tally.missed += 1
            return []
        tally.points[str(point.fault)] += 1
        tally.scenes[point.scene.name] += 1
        tally.calls[point.call] += 1
        tally.stopped += status == GAVE_UP
        if point.fault is Fault.KILL:
            wrong = [] if status < 0 else [f"the kill left it alive, it ended with {status}"]
        else:
            wrong = [] if status in (0, GAVE_UP, CRASHED) else [f"it ended with {status}"]
        return wrong + point.scene.check(directory, Acknowledged.of(directory))


def _was_met(point: Point, directory: Path, log: Path) -> bool:
    """Whether strace met a call that changes the directory, and not one about something else."""
    mark = " = ?" if point.fault is Fault.KILL else "(INJECTED)"
    lines = [line for line in log.read_text().splitlines() if mark in line]
    if not lines:
        return False
    found = lines[-1].partition(mark)[0] + (" = 0" if point.fault is Fault.KILL else "")
    met = [each for each in read_calls([found]) if isinstance(each, Call)]
    return any(place_of(call, directory) is not None for call in met)


def place_of(call: Call, directory: Path) -> str | None:
    """What a call changes below the directory; None for what changes nothing there."""
    if call.name == "openat" and _READS_ONLY.match(call.arguments[2]):
        return None
    paths = [call.descriptor_path(0)]
    if call.name not in ("write", "writev", "pwrite64"):
        for position, argument in enumerate(call.arguments):
            if argument.startswith('"'):
                text = call.path(position)
                paths.append(text if text.startswith("/") else f"{paths[0]}/{text}")
    root = f"{directory.resolve()}/"
    inside = [f"{path}/"[len(root) : -1] or "." for path in paths if f"{path}/".startswith(root)]
    if not inside:
        return None
    # What is renamed; else what is made or removed below a descriptor's directory.
    return inside[0] if call.name.startswith("rename") else inside[-1]


# --- the process that is killed -------------------------------------------------------------------


def _acting(scene: Scene, directory: Path, plant: Callable[[], object]) -> Callable[[], None]:
    def act() -> None:
        plant()
        with in_one_thread():
            os._exit(act_as_a_process(scene, directory))

    return act


class _Inline(threading.Thread):
    """A thread whose work is done where it is started."""

    def start(self) -> None:
        self.run()


@contextmanager
def in_one_thread() -> Iterator[None]:
    """The agent's work beside its loop is done in the loop: in no other order than it would be."""
    with patch.object(background, "threading", SimpleNamespace(Thread=_Inline)):
        yield


@contextmanager
def _device(scene: Scene) -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(prefix="mailboat-strace-", dir=scratch()))
    try:
        directory = place / "device"
        scene.prepare(directory)
        assert told_path(directory).parent == place
        yield directory
    finally:
        shutil.rmtree(place, ignore_errors=True)


__all__ = ["FAILED", "Fault", "Point", "StraceTally", "run_strace", "sampled", "strace_points"]

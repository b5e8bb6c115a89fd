"""Harness C: the power is cut after every operation of a story, and the disk loses what it may.

The story runs once, under strace. From then on nothing of it runs any more: the states that a cut
may leave are worked out from the trace (`power_states`), written into memory one after another, and
booted in this process by the scene's own check.
"""

import os
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.acknowledged import Acknowledged, told_path
from tests.faults.power_directory import materialise
from tests.faults.power_states import State, States
from tests.faults.power_trace import Trace, trace
from tests.faults.scenes import CRASHED, Scene, act_as_a_process, scratch
from tests.faults.traced_run import StoryFailed

STATES_EACH_SCENE = 2_400  # of the distinct ones; with ten scenes more than 20,000 in all
# Of so many states one is asked everything: started on a dead disk too, and its story gone on with.
FULL_CHECK_EACH = 40
SEED = 20261121
VIOLATIONS_TOLD_MAX = 20  # of one scene; a planted defect has thousands


@dataclass(slots=True)
class PowerTally:
    """``booted`` states by scene, each another disk or another thing told; ``distinct`` there were
    in all, out of ``generated`` cuts."""

    booted: Counter[str] = field(default_factory=Counter)
    distinct: Counter[str] = field(default_factory=Counter)
    generated: Counter[str] = field(default_factory=Counter)
    fully: int = 0
    operations: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    violating: int = 0  # states
    violations: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        return sum(self.booted.values())

    def add(self, other: "PowerTally") -> None:
        self.booted.update(other.booted)
        self.distinct.update(other.distinct)
        self.generated.update(other.generated)
        self.operations.update(other.operations)
        self.fully += other.fully
        self.seconds += other.seconds
        self.violating += other.violating
        self.violations += other.violations


@dataclass(frozen=True, slots=True)
class Thoroughness:
    """How many states of a scene are booted, and of how many one is asked everything."""

    states_max: int | None = STATES_EACH_SCENE
    full_check_each: int = FULL_CHECK_EACH
    stop_at_first: bool = False  # a mutant is caught by one violation


def cut_power(
    scene: Scene,
    thoroughness: Thoroughness = Thoroughness(),
    *,
    plant: Callable[[], object] = lambda: None,
    seed: int = SEED,
) -> PowerTally:
    """Trace the scene and boot what a power cut may leave of it.

    ``plant`` is called in the process that acts, and nowhere else: a defect of the agent that ran
    before the cut, not of the one that looks at what is left.

    Raises:
        ModelWrong, Unmodelled: the model does not follow what the program does.
        NotTraced
    """
    began = time.monotonic()
    tally = PowerTally()
    place = Path(tempfile.mkdtemp(prefix="mailboat-power-", dir=scratch()))
    try:
        recorded = traced_scene(scene, place, plant)
        states = States(recorded.recording, recorded.told_before, seed)
        chosen = chosen_states(states, thoroughness, seed)
        tally.operations[scene.name] = len(recorded.recording.operations)
        tally.generated[scene.name] = states.generated
        tally.distinct[scene.name] = states.distinct
        for number, state in enumerate(chosen):
            fully = number % thoroughness.full_check_each == 0
            tally.fully += fully
            tally.booted[scene.name] += 1
            found = booted(scene, state, place / "device", quickly=not fully)
            if found:
                tally.violating += 1
                if len(tally.violations) < VIOLATIONS_TOLD_MAX:
                    tally.violations.append(f"{scene.name}: {state.because}: {'; '.join(found)}")
                if thoroughness.stop_at_first:
                    break
    finally:
        shutil.rmtree(place, ignore_errors=True)
    tally.seconds = time.monotonic() - began
    return tally


def traced_scene(scene: Scene, place: Path, plant: Callable[[], object]) -> Trace:
    before, directory = place / "before", place / "device"
    scene.prepare(before)
    shutil.copyfile(told_path(before), told_path(directory))

    def act(at: Path) -> None:
        plant()
        status = acted_to_the_end(scene, at)
        assert status == 0, f"the story ended with status {status}"

    recorded = trace(before, directory, told_path(directory), act, place / "log")
    if recorded.status != 0:
        raise StoryFailed(f"{scene.name} ended with status {recorded.status}")
    return recorded


def acted_to_the_end(scene: Scene, directory: Path) -> int:
    """The story in a process; again, as a device that starts anew, when its release ended it."""
    status = CRASHED
    for _ in range(scene.crashes_max + 1):
        child = os.fork()
        if child == 0:
            os._exit(act_as_a_process(scene, directory))
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status != CRASHED:
            break
    return status


def chosen_states(states: States, thoroughness: Thoroughness, seed: int) -> Sequence[State]:
    """In a seeded order, so that the first ones are of everywhere. Before the others comes what
    holds the most: everything lost, or nothing, right after a promise; last the random choices."""
    found = list(states)
    rng = random.Random(seed)
    rng.shuffle(found)
    found.sort(key=_rank)
    return found[: thoroughness.states_max]


def _rank(state: State) -> int:
    if "random" in state.because:
        return 2
    after_a_promise = "told" in state.because
    return 0 if after_a_promise and state.because.endswith(("everything", "pending")) else 1


def booted(scene: Scene, state: State, directory: Path, *, quickly: bool) -> list[str]:
    """What the scene's check says of one state."""
    materialise(state, directory)
    return scene.check(directory, Acknowledged.read(state.told), quickly=quickly)


MUTANT = Thoroughness(states_max=320, full_check_each=8, stop_at_first=True)


def power_catches(scenes: Sequence[Scene]) -> str:
    """What the harness finds first in these scenes, "" if nothing; for a process in which a defect
    has been planted, and with it in the agent that starts after the cut."""
    for scene in scenes:
        try:
            found = cut_power(scene, MUTANT).violations
        except StoryFailed as error:
            return f"without any cut: {error}"
        if found:
            return found[0]
    return ""

"""The stories that must survive a crash at every point of them.

A harness takes a scene, and for each crash it wants to try: ``prepare`` a device directory at rest,
run ``act`` on it in a process of its own until that process dies, and let ``check`` say what is
wrong with what is left. ``act`` writes beside the directory what the outside was told
(`acknowledged.told_path`); ``check`` is given it. Both work on any copy of the directory.

``python -m tests.faults.scenes act NAME DIRECTORY`` is ``act`` as a process (`main`).
"""

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults import world
from tests.faults.acknowledged import Acknowledged, told_path
from tests.faults.checks import violations
from tests.faults.device import CRASHED, Life, NotReached, live

from mailboat_schemas.errors import MailboatError
from mailboat_schemas.events import Event, EventKind

GAVE_UP = 3  # exit status: the story came to a stop in good order, as on a disk that is gone
BURST = 12  # events in the outbox story: two batches with an acknowledgement between

Goal = Callable[[Life], bool]


@dataclass(frozen=True, slots=True)
class Scene:
    """``name`` is also what people call it. ``story`` names bundles of the world.

    ``rest`` of them are taken before the scene begins, the others are its own. At the end it
    serves ``version`` (None: nothing); ``tells`` are events that must have been told by then.
    """

    name: str
    story: str
    rest: int
    version: str | None
    tells: tuple[str, ...] = ()
    act_before: Callable[[Life], None] = lambda _: None
    arrange: Callable[[Path], None] = lambda _: None
    crashes_max: int = 0  # how often the release itself may take the device down
    also: Goal = lambda _: True  # what else the end of the story is
    during_trial: bool = False  # the last bundle comes while the one before it is on trial
    _rested: dict[str, Path] = field(default_factory=dict, compare=False)

    def prepare(self, directory: Path) -> None:
        """Make ``directory`` a device at rest, and what the outside knows of it beside it."""
        if "at" not in self._rested:
            self._rested["at"] = self._make_rest()
        rested = self._rested["at"]
        shutil.copytree(rested, directory, dirs_exist_ok=True)
        shutil.copyfile(told_path(rested), told_path(directory))

    def act(self, directory: Path) -> None:
        """The whole story, from wherever the directory stands. May be run again and again.

        Raises:
            NotReached: it came to a stop before its end, in good order.
        """
        live(directory, self.play)

    def check(self, directory: Path, told: Acknowledged, *, quickly: bool = False) -> list[str]:
        """What is wrong with a directory that a crash has left, [] if nothing; spoils it.

        ``quickly`` leaves out the start on a dead disk and the rest of the story.
        """
        return violations(self, directory, told, quickly=quickly)

    async def play(self, life: Life) -> None:
        self.act_before(life)
        bundles = world.current().bundles[self.story][self.rest :]
        for number, bundle in enumerate(bundles):
            life.take(bundle)
            is_last = number == len(bundles) - 1
            if self.during_trial and not is_last:
                # Only as far as the switch: what comes next hits the device in mid-trial.
                await life.until(lambda: life.model.phase != "committed" or bool(life.model.failed))
        await life.until(lambda: self.is_over(life))

    def is_over(self, life: Life) -> bool:
        version = self.version
        there = life.serving is None if version is None else life.serves(version)
        return there and self.has_come_through(life) and life.nothing_waits() and self.also(life)

    def has_come_through(self, life: Life) -> bool:
        """Whether the controller has every event that the story is about."""
        received = {f"{e['kind']} {e['version']}" for e in life.told.received.values()}
        return set(self.tells) <= received

    def _make_rest(self) -> Path:
        place = Path(tempfile.mkdtemp(prefix="mailboat-rest-", dir=scratch()))
        atexit.register(_remove, place, made_by=os.getpid())
        directory = place / "device"
        directory.mkdir()

        async def settle(life: Life) -> None:
            for number, version in enumerate(("1.0.0", "2.0.0")[: self.rest]):
                life.take(world.current().bundles[self.story][number])
                await life.until(lambda version=version: life.serves(version))  # type: ignore[misc]
            await life.until(life.nothing_waits)

        live(directory, settle)
        self.arrange(directory)
        return directory


def _remove(place: Path, *, made_by: int) -> None:
    if os.getpid() == made_by:  # a process that was forked from there ends as well
        shutil.rmtree(place, ignore_errors=True)


def scratch() -> Path:
    """Memory where there is some: no crash here takes the machine's own caches away."""
    memory = Path("/dev/shm")  # noqa: S108 - directories in it are made with mkdtemp
    return memory if os.access(memory, os.W_OK) else Path(tempfile.gettempdir())


def _burst(life: Life) -> None:
    for number in range(BURST):
        life.ledger.tell(
            Event(
                event_id=f"burst:{number}",
                sequence=1,
                kind=EventKind.STORAGE_DAMAGED,
                observed_at=0,
                version=f"9.0.{number}",
            )
        )
        if number % 5 == 4:
            life.exchange()


def _litter(directory: Path) -> None:
    """What crashes, withdrawn releases and interrupted downloads leave behind."""
    for number in range(3):
        content = world.model_bytes(b"litter", str(number))
        digest = world.sha256(content)
        (directory / "store" / digest).write_bytes(content)
        (directory / "staging" / f"{number}{digest[1:]}.part").write_bytes(content[:5000])
    (directory / "staging" / f"{'a' * 64}.delta").write_bytes(b"half a file")
    for number in range(2):
        (directory / "trust" / f"scratch-{number}").mkdir()
        (directory / "trust" / f"scratch-{number}" / "root.json").write_bytes(b"{")


def _is_tidy(life: Life) -> bool:
    named = {path.name for path in (life.directory / "staging").iterdir()}
    litter = {world.sha256(world.model_bytes(b"litter", str(number))) for number in range(3)}
    return not named and not litter & life.store.digests()


def _import(life: Life) -> None:
    """Files of the next release come by hand, through the store's own door."""
    the_world = world.current()
    for digest in sorted(the_world.imported):
        content = the_world.artifacts[digest]
        with suppress(MailboatError):
            life.store.put(content)


def _through_a_broken_cache(life: Life) -> None:
    life.source.lie_once()


def told_of(version: str, *kinds: str) -> tuple[str, ...]:
    return tuple(f"{kind} {version}" for kind in kinds)


SCENES = (
    Scene(
        "install of a whole release",
        "second",
        1,
        "2.0.0",
        told_of("2.0.0", "trial_started", "soak_started", "committed"),
    ),
    Scene(
        "install from a delta",
        "patched",
        1,
        "2.0.0",
        told_of("2.0.0", "trial_started", "soak_started", "committed"),
    ),
    Scene(
        "install of imported files",
        "second",
        1,
        "2.0.0",
        told_of("2.0.0", "trial_started", "committed"),
        act_before=_import,
    ),
    Scene(
        "trial that fails",
        "wrong",
        1,
        "1.0.0",
        told_of("3.0.0", "trial_started", "trial_failed"),
        act_before=_through_a_broken_cache,
    ),
    Scene(
        "soak that fails",
        "flaky",
        1,
        "1.0.0",
        told_of("3.0.0", "trial_started", "soak_started", "rolled_back"),
    ),
    Scene(
        "release that takes the device down",
        "deadly",
        1,
        "1.0.0",
        told_of("3.0.0", "trial_started", "trial_failed"),
        crashes_max=3,
    ),
    Scene(
        "rotated root and a withdrawn release",
        "rotated",
        2,
        "1.0.0",
        told_of("2.0.0", "returned"),
    ),
    Scene(
        "predecessor withdrawn during a trial",
        "refuge",
        2,
        "1.0.0",
        told_of("3.0.0", "trial_started"),
        during_trial=True,
    ),
    Scene("garbage", "second", 2, "2.0.0", arrange=_litter, also=_is_tidy),
    Scene(
        "outbox",
        "second",
        2,
        "2.0.0",
        tuple(f"storage_damaged 9.0.{number}" for number in range(BURST)),
        act_before=_burst,
    ),
)


def scene(name: str) -> Scene:
    return next(each for each in SCENES if each.name == name)


def act_as_a_process(chosen: Scene, directory: Path) -> int:
    """``act``, and its exit status: 0, GAVE_UP, or CRASHED if its release took it down."""
    try:
        chosen.act(directory)
    except NotReached:
        return GAVE_UP
    return 0


def main(arguments: Iterable[str]) -> int:
    """``act NAME DIRECTORY``, or ``prepare NAME DIRECTORY``; the world is the environment's."""
    what, name, directory = arguments
    chosen = scene(name)
    if what == "prepare":
        chosen.prepare(Path(directory))
        return 0
    return act_as_a_process(chosen, Path(directory))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

__all__ = ["CRASHED", "GAVE_UP", "SCENES", "Scene", "act_as_a_process", "scene"]

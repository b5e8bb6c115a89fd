"""The delta room's two loops in a running controller: look what is wanted, and build it."""

import asyncio
import time
from collections.abc import Callable
from datetime import datetime

import structlog

from mailboat_controller.artifacts.artifact_store import ArtifactStore
from mailboat_controller.config import ControllerSettings
from mailboat_controller.delta_builds.builder import Builder
from mailboat_controller.delta_builds.room import DeltaRoom
from mailboat_controller.releases.publication import ClassWish
from mailboat_controller.store.engine import Store
from mailboat_controller.wake import Wake
from mailboat_controller.worker_threads import WorkerThreads
from mailboat_schemas.errors import MailboatError

LOOK_SECONDS = 15.0  # without a wake-up: a retry has come due, or devices reported
# Counting devices takes a while in a large fleet, and nothing here is urgent.
REST_FACTOR = 4.0
REST_SECONDS_MIN = 0.2
DEFECT_REST_SECONDS = 60.0

_log = structlog.get_logger(__name__)


def open_loops(
    settings: ControllerSettings,
    store: Store,
    artifacts: ArtifactStore,
    *,
    now: Callable[[], datetime],
    tell: Callable[[], None],
) -> "DeltaLoops":
    builder = Builder(
        artifacts=artifacts,
        scratch=settings.delta_scratch_dir,
        memory_mib=settings.delta_build_memory_mib,
    )
    room = DeltaRoom(store, builder, now=now, bases_max=settings.delta_bases)
    return DeltaLoops(room, at_once=settings.delta_builds_at_once, tell=tell)


class DeltaLoops:
    def __init__(self, room: DeltaRoom, *, at_once: int, tell: Callable[[], None]) -> None:
        """``tell`` has the classes told anew; ``at_once`` is how many deltas are built at a time,
        0 for none."""
        self._room = room
        self._tell = tell
        self._news = Wake()
        self._stopping = Wake()
        self._work = tuple(Wake() for _ in range(at_once))
        self._threads = WorkerThreads("deltas", at_once + 1)  # one looks beside the builders
        self._wishes: tuple[ClassWish, ...] | None = None

    def wished(self, wishes: tuple[ClassWish, ...]) -> None:
        """What every class is told now; from any thread."""
        self._wishes = wishes
        self._news.set()

    def stop(self) -> None:
        """What is being built ends at once, and waits for the next start."""
        self._room.stop()
        for wake in (self._stopping, self._news, *self._work):
            wake.set()

    async def run(self) -> None:
        """Until `stop`."""
        if not self._work:
            return
        try:
            await self._threads.run(self._room.open)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._look())
                for wake in self._work:
                    group.create_task(self._build(wake))
        finally:
            self._threads.close()

    async def _look(self) -> None:
        while not self._room.stopped:
            started = time.monotonic()
            try:
                if self._wishes is not None and await self._threads.run(
                    self._room.look, self._wishes
                ):
                    self._tell()
            except MailboatError as error:
                _log.warning("the queue of deltas stays as it is for now", problem=str(error))
            for wake in self._work:
                wake.set()
            rest = max(REST_SECONDS_MIN, REST_FACTOR * (time.monotonic() - started))
            if not self._room.stopped:
                await self._stopping.wait(rest)
                await self._news.wait(LOOK_SECONDS)

    async def _build(self, wake: Wake) -> None:
        try:
            while not self._room.stopped:
                if not await self._built_one():
                    await wake.wait(LOOK_SECONDS)
        except asyncio.CancelledError:
            self._room.stop()  # the thread ends soon after
            raise

    async def _built_one(self) -> bool:
        """Building deltas must not take the controller down, whatever is wrong with it."""
        try:
            built = await self._threads.run(self._room.build_next)
            if built and await self._threads.run(self._room.offer):
                self._tell()
        except MailboatError as error:
            _log.warning("no delta can be built for now", problem=str(error))
        except Exception:  # noqa: BLE001  it is in the log, and devices get their files whole
            _log.exception("a delta was not built")
            await self._stopping.wait(DEFECT_REST_SECONDS)
        else:
            return built
        return False

"""The two loops that look after artifacts in a running controller."""

import asyncio
import threading

import structlog

from mailboat_controller.artifacts.care import LOOK_SECONDS, ArtifactCare
from mailboat_controller.worker_threads import WorkerThreads
from mailboat_schemas.errors import MailboatError

SCRUB_LOOK_SECONDS = 2.0  # until a check that somebody asked for begins

_log = structlog.get_logger(__name__)


async def look_after(care: ArtifactCare) -> None:
    """Until it is cancelled."""
    threads = WorkerThreads("artifacts", 2)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_look(care, threads))
            group.create_task(_scrub(care, threads))
    finally:
        threads.close()


async def _look(care: ArtifactCare, threads: WorkerThreads) -> None:
    stop = threading.Event()
    try:
        while True:
            await threads.run(care.look, stop)
            await asyncio.sleep(LOOK_SECONDS)
    finally:
        stop.set()  # what came back may be large, and is read whole


async def _scrub(care: ArtifactCare, threads: WorkerThreads) -> None:
    """A pass reads for hours, so it is told to stop, and goes on after the next start."""
    stop = threading.Event()
    try:
        while True:
            try:
                await threads.run(care.scrub, stop)
            except (MailboatError, OSError) as error:
                _log.warning("artifacts are not checked now", problem=str(error))
            for _ in range(int(LOOK_SECONDS / SCRUB_LOOK_SECONDS)):
                await asyncio.sleep(SCRUB_LOOK_SECONDS)
                if care.scrub_wanted.is_set():
                    break
    finally:
        stop.set()

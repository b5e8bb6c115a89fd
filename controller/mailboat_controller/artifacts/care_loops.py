"""The two loops that look after artifacts in a running controller."""

import asyncio
import threading

import structlog

from mailboat_controller.artifacts.care import LOOK_SECONDS, ArtifactCare
from mailboat_schemas.errors import MailboatError

SCRUB_LOOK_SECONDS = 2.0  # until a check that somebody asked for begins

_log = structlog.get_logger(__name__)


async def look_after(care: ArtifactCare) -> None:
    """Until it is cancelled."""
    async with asyncio.TaskGroup() as group:
        group.create_task(_look(care))
        group.create_task(_scrub(care))


async def _look(care: ArtifactCare) -> None:
    while True:
        await asyncio.to_thread(care.look)
        await asyncio.sleep(LOOK_SECONDS)


async def _scrub(care: ArtifactCare) -> None:
    """A pass reads for hours, so it is told to stop, and goes on after the next start."""
    stop = threading.Event()
    try:
        while True:
            try:
                await asyncio.to_thread(care.scrub, stop)
            except (MailboatError, OSError) as error:
                _log.warning("artifacts are not checked now", problem=str(error))
            for _ in range(int(LOOK_SECONDS / SCRUB_LOOK_SECONDS)):
                await asyncio.sleep(SCRUB_LOOK_SECONDS)
                if care.scrub_wanted.is_set():
                    break
    finally:
        stop.set()

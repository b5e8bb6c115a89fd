"""One controller leads: it decides, publishes and answers. Others wait for the lock to be free.

Whoever waits holds no port and starts no broker; it takes over when the leader's connection to the
database ends, in whatever way the leader did.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import structlog

from mailboat_controller.store.engine import Store
from mailboat_controller.store.locks import HeldLock, LockLost
from mailboat_schemas.errors import ConfigurationInvalid, Transient

TRY_SECONDS = 1.0
CHECK_SECONDS = 5.0

_log = structlog.get_logger(__name__)


@contextlib.asynccontextmanager
async def holding(
    store_url: str, name: str, stopped: asyncio.Event
) -> AsyncIterator[HeldLock | None]:
    """Wait for a lock and keep it for the block; None when we are stopped before it is ours.

    Raises:
        ConfigurationInvalid: the database is named wrongly, or its directory cannot be used.
    """
    store = Store(store_url)
    try:
        held = await _wait(store, name, stopped)
        try:
            yield held
        finally:
            if held is not None:
                await asyncio.shield(asyncio.to_thread(held.release))
    finally:
        store.close()


async def keep(held: HeldLock) -> None:
    """Look again and again whether it is still ours.

    Raises:
        LockLost: it is not: whatever we decide from here on is somebody else's to decide.
    """
    while True:
        await asyncio.sleep(CHECK_SECONDS)
        await asyncio.to_thread(held.check)


def is_held(held: HeldLock) -> bool:
    try:
        held.check()
    except LockLost:
        return False
    return True


async def _wait(store: Store, name: str, stopped: asyncio.Event) -> HeldLock | None:
    told = False
    while not stopped.is_set():
        try:
            held = await asyncio.to_thread(store.try_hold, name)
        except Transient as error:
            _log.warning("the database is not there yet", problem=str(error))
            held, told = None, False
        except OSError as error:
            raise ConfigurationInvalid(
                f"The lock beside the database cannot be taken: {error}.",
                next_step="let the user that runs it own the data directory and all in it.",
            ) from error
        if held is not None:
            if told:
                _log.info("taking over", lock=name)
            return held
        if not told:
            told = True
            _log.info("another process holds the lock; waiting to take over", lock=name)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TRY_SECONDS):
                await stopped.wait()
    return None

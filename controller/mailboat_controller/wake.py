"""A nudge to a loop. It carries nothing: the loop looks at the stored state."""

import asyncio
import contextlib


class Wake:
    """May be set from any thread; setting it twice before anybody looks is one wake-up."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    def set(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is to be woken
            self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self, seconds_max: float) -> bool:
        """Until set, or at most so long; says which. Clears it, so look after this returns."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds_max):
                await self._event.wait()
        woken = self._event.is_set()
        self._event.clear()
        return woken

"""Blocking work beside the event loop, in threads that do not keep the process alive.

A trial may take its whole deadline. Threads of asyncio's own pool are waited for at exit; these
are not: whatever they were doing, the record says where to go on, and their worker processes die
with the agent.
"""

import asyncio
import contextvars
import threading
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


async def in_background(
    work: Callable[[], Result], *, name: str, abandon: Callable[[], None] = lambda: None
) -> Result:
    """Run plain blocking work in a thread of its own and wait for what it returns or raises.

    ``abandon`` is called, and must not block, when nobody waits any more: the thread goes on.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Result] = loop.create_future()

    def settle(result: Result | None, error: BaseException | None) -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result: Result | None = None
        error: BaseException | None = None
        try:
            result = work()
        except BaseException as raised:  # noqa: BLE001 - raised again where it is awaited
            error = raised
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, result, error)

    inherited = contextvars.copy_context()  # of which release it is about, for the log
    threading.Thread(target=inherited.run, args=(run,), name=name, daemon=True).start()
    try:
        return await future
    except asyncio.CancelledError:
        abandon()
        raise

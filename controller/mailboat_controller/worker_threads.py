"""Threads of their own for work that may take long, so that nobody else waits for one of them.

asyncio's own are few (five on one core), and whatever is decided, received or sent needs one now
and then: a patch that is built for minutes, a check that reads for days, or a bucket that does not
answer would keep a withdrawal from going out.
"""

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class WorkerThreads:
    """Like `asyncio.to_thread`, among ``count`` threads that nothing else uses; more work waits."""

    def __init__(self, name: str, count: int) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix=name)

    async def run(self, work: Callable[P, T], *args: P.args, **more: P.kwargs) -> T:
        """Cancelled, what has begun goes on in its thread to its end."""
        call = partial(contextvars.copy_context().run, work, *args, **more)
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    def close(self) -> None:
        """No more work is taken; what has begun is not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)

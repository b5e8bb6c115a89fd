"""Worker processes that somebody may not want any more: all of them gone at one word."""

import socket
import threading
from contextlib import suppress
from dataclasses import dataclass, field

from mailboat_agent.serving.launch import Launch, WorkerProcess


@dataclass(frozen=True, slots=True)
class RevocableLaunch(Launch):
    """A `Launch` that can be ended from any thread; what it has started is killed then."""

    _started: list[WorkerProcess] = field(default_factory=list)
    _given_up: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def given_up(self) -> bool:
        return self._given_up.is_set()

    def start(self, model_fd: int) -> tuple[WorkerProcess, socket.socket]:
        with self._lock:
            if self.given_up:
                raise OSError("it was given up")
            # With slots the class is made anew, and `super()` without arguments misses it.
            process, sock = Launch.start(self, model_fd)
            self._started.append(process)
        return process, sock

    def give_up_soon(self) -> None:
        """Returns at once, for callers that must not wait: a start may hold the lock for seconds,
        and so may a large process that the kernel takes down."""
        self._given_up.set()
        threading.Thread(target=self.give_up, name="given-up", daemon=True).start()

    def give_up(self) -> None:
        """No worker of it lives when this returns, and none will. May be repeated."""
        self._given_up.set()
        with self._lock:
            for process in self._started:
                with suppress(OSError, ValueError):  # its own thread may bury it at this moment
                    process.kill()

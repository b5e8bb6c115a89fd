"""Worker processes of a drill: of the lowest priority, and all of them gone at one word."""

import os
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass, field

from mailboat_agent.serving.launch import Launch, WorkerProcess

DRILL_NICE = 19  # whoever answers comes first; it never has to be given back


@dataclass(frozen=True, slots=True)
class DrillLaunch(Launch):
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
                raise OSError("the drill was given up")
            # With slots the class is made anew, and `super()` without arguments misses it.
            process, sock = Launch.start(self, model_fd)
            self._started.append(process)
        make_lowest(process.pid)
        return process, sock

    def give_up_soon(self) -> None:
        """Returns at once, for callers that must not wait: a start may hold the lock for seconds,
        and so may a large process that the kernel takes down."""
        self._given_up.set()
        threading.Thread(target=self.give_up, name="drill-given-up", daemon=True).start()

    def give_up(self) -> None:
        """No worker of this drill lives when this returns, and none will. May be repeated."""
        self._given_up.set()
        with self._lock:
            for process in self._started:
                with suppress(OSError, ValueError):  # its own thread may bury it at this moment
                    process.kill()


def make_lowest(pid: int) -> None:
    """Where the kernel lets us; the threads that it makes afterwards do as it does."""
    if pid > 0:
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, pid, DRILL_NICE)

"""Worker processes of a drill: of the lowest priority, and all of them gone at one word."""

import os
import socket
from contextlib import suppress
from dataclasses import dataclass

from mailboat_agent.serving.launch import WorkerProcess
from mailboat_agent.serving.revocable_launch import RevocableLaunch

DRILL_NICE = 19  # whoever answers comes first; it never has to be given back


@dataclass(frozen=True, slots=True)
class DrillLaunch(RevocableLaunch):
    def start(self, model_fd: int) -> tuple[WorkerProcess, socket.socket]:
        process, sock = RevocableLaunch.start(self, model_fd)  # slots: as there
        make_lowest(process.pid)
        return process, sock


def make_lowest(pid: int) -> None:
    """Where the kernel lets us; the threads that it makes afterwards do as it does."""
    if pid > 0:
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, pid, DRILL_NICE)

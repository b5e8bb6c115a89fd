"""How worker processes come to be here: as children of the agent, or as units beside it."""

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mailboat_agent.serving.spawn import spawn_worker
from mailboat_agent.serving.worker_unit import connect_worker


class WorkerProcess(Protocol):
    """Two real ones: `SpawnedProcess`, and `ConnectedProcess` of a unit beside the agent's."""

    @property
    def pid(self) -> int: ...

    @property
    def alive(self) -> bool: ...

    @property
    def reaped(self) -> bool:
        """From now on its pid may be somebody else's."""
        ...

    @property
    def last_words(self) -> str: ...

    def meet(self, deadline_seconds: float) -> int | None:
        """Wait until it is known who it is; its uid where the kernel says so. Raises OSError."""
        ...

    def wait(self, seconds_max: float) -> bool:
        """Whether it has ended within that time."""
        ...

    def kill(self) -> None:
        """Gone before this returns; may be repeated."""
        ...

    def how_it_ended(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Launch:
    """``worker_socket`` None starts children, as ``user`` if the agent is root."""

    worker_socket: Path | None = None
    user: str | None = "nobody"

    def start(self, model_fd: int) -> tuple[WorkerProcess, socket.socket]:
        """The process, and our end of the socket it talks on.

        Raises:
            OSError: no process to be had.
        """
        if self.worker_socket is not None:
            return connect_worker(self.worker_socket, model_fd)
        return spawn_worker(model_fd, user=self.user)


AS_CHILDREN = Launch()

"""A worker that the service manager starts: another unit, another user, nothing shared.

The agent connects to a socket and gets a fresh worker for itself alone. It sends two descriptors,
the model and the reading end of a pipe; the kernel kills the worker when the pipe's other end
closes, however the agent ends and whatever native code runs. Who answers is told by the kernel too
(SO_PASSCRED), not by the worker.

Source: systemd.socket(5), unix(7), F_SETSIG in fcntl(2), pidfd_open(2).
"""

import array
import fcntl
import os
import select
import signal
import socket
import struct
import threading
from pathlib import Path

CONNECT_SECONDS_MAX = 10  # to the socket; the service manager accepts before the worker stands
KILL_SECONDS_MAX = 5  # until a process the kernel was asked to kill is gone
_GREETING = b"M"  # one byte must travel with descriptors
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid: struct ucred
_F_SETSIG = 10  # linux/fcntl.h; Python does not name it


class ConnectedProcess:
    """A process of somebody else's, known by the kernel's word, ended by closing a pipe."""

    def __init__(self, sock: socket.socket, lifeline: int) -> None:
        self._sock = sock
        self._lifeline = lifeline
        self._pidfd = -1
        self._gone = False
        self._killing = threading.Lock()  # who gives it up and who waits for it are two threads
        self.pid = 0

    def meet(self, deadline_seconds: float) -> int | None:
        """Wait for the first word without taking it, and note who the kernel says it is from.

        Returns its uid.

        Raises:
            TimeoutError, OSError
        """
        self._sock.settimeout(deadline_seconds)
        size = socket.CMSG_SPACE(_CREDENTIALS.size)
        data, ancillary, _, _ = self._sock.recvmsg(1, size, socket.MSG_PEEK)
        uid = None
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
                self.pid, uid, _ = _CREDENTIALS.unpack(content[: _CREDENTIALS.size])
        if not data or self.pid <= 0:
            raise ConnectionResetError("it closed the connection without a word")
        self._pidfd = os.pidfd_open(self.pid)  # from here on its number cannot be mistaken
        return uid

    @property
    def alive(self) -> bool:
        return not self.wait(0)

    @property
    def reaped(self) -> bool:
        return self._gone

    def wait(self, seconds_max: float) -> bool:
        """Whether it has ended within that time."""
        if not self._gone and self._pidfd >= 0:
            self._gone = _readable(self._pidfd, seconds_max)
        return self._gone or self._lifeline < 0

    def kill(self) -> None:
        """Have the kernel kill it; gone before this returns, or never to be heard of again."""
        with self._killing:  # a number closed twice may be somebody else's the second time
            if self._lifeline >= 0:
                os.close(self._lifeline)
                self.wait(KILL_SECONDS_MAX)
                self._lifeline = -1
            if self._pidfd >= 0:
                os.close(self._pidfd)
                self._pidfd, self._gone = -1, True

    def how_it_ended(self) -> str:
        return f"process {self.pid} of the worker unit ended; its journal says how"

    @property
    def last_words(self) -> str:
        return ""  # they went to the journal


def connect_worker(path: Path, model_fd: int) -> tuple[ConnectedProcess, socket.socket]:
    """A worker of our own behind this socket, and our end of the connection to it.

    Raises:
        OSError: nobody listens there, or we may not connect.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    theirs, ours = os.pipe()
    try:
        sock.settimeout(CONNECT_SECONDS_MAX)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        sock.connect(str(path))
        descriptors = array.array("i", [model_fd, theirs])
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)
        sock.sendmsg([_GREETING], [rights])
    except BaseException:
        sock.close()
        os.close(ours)
        raise
    finally:
        os.close(theirs)
    return ConnectedProcess(sock, ours), sock


# --- the worker's side ---------------------------------------------------------------------------


def accepted_connection() -> tuple[socket.socket, int, int]:
    """In the worker: the connection it was started for, the model's descriptor, and the lifeline.

    From here on this process dies with the agent that connected.

    Raises:
        OSError, ValueError: not started by a service manager, or nobody there who knows the way.
    """
    first = 3  # SD_LISTEN_FDS_START. Source: sd_listen_fds(3)
    if os.environ.get("LISTEN_FDS") != "1" or os.environ.get("LISTEN_PID") != str(os.getpid()):
        raise ValueError("no connection was passed; is Accept=yes set in the socket unit?")
    sock = socket.socket(fileno=first)
    sock.set_inheritable(False)
    sock.settimeout(CONNECT_SECONDS_MAX)
    size = socket.CMSG_SPACE(2 * array.array("i").itemsize)
    data, ancillary, _, _ = sock.recvmsg(len(_GREETING), size, socket.MSG_CMSG_CLOEXEC)
    descriptors = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
    if data != _GREETING or len(descriptors) != 2:
        raise ValueError("whoever connected sent no model")
    sock.settimeout(None)
    model_fd, lifeline = descriptors
    _die_with(lifeline)
    return sock, model_fd, lifeline


def _die_with(lifeline: int) -> None:
    """SIGKILL from the kernel when the pipe closes: no thread, no interpreter has to be in order.

    Nobody ever writes to the pipe, so its only news is its end.
    """
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, _F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    if _readable(lifeline, 0):  # it closed before the lines above
        os.kill(os.getpid(), signal.SIGKILL)


def _readable(descriptor: int, seconds_max: float) -> bool:
    poll = select.poll()  # select(2) ends at descriptor 1023
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(seconds_max * 1000))

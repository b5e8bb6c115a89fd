"""The sockets that the gateway listens on: TCP on the addresses of one name, and a Unix socket."""

import errno
import fcntl
import os
import resource
import socket
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

from mailboat_schemas.errors import ConfigurationInvalid

BACKLOG = 1024  # a thousand clients that connect at once; the kernel may allow fewer
PATH_BYTES_MAX = 107  # of a Unix socket: sockaddr_un has 108 with the final zero
HIGH_DESCRIPTOR = 1024
DESCRIPTORS_MAX = 4096
OWN_DESCRIPTORS = 512  # kept for the agent: files, workers, its broker, and who is being refused
_PROBE_SECONDS = 1


class HighListener(socket.socket):
    """Its connections get descriptors above what select(2) can wait for.

    The MQTT client waits with select, which ends at 1,023. A thousand callers of the model would
    take all below, and the device could not connect to its broker again.
    """

    def accept(self) -> tuple[socket.socket, Any]:
        connection, address = super().accept()
        try:
            high = fcntl.fcntl(connection.fileno(), fcntl.F_DUPFD_CLOEXEC, HIGH_DESCRIPTOR)
        except OSError:  # the process may not have that many: better low than not at all
            return connection, address
        with connection:
            duplicate = socket.socket(
                connection.family, connection.type, connection.proto, fileno=high
            )
        return duplicate, address


def allow_descriptors() -> int:
    """Raise the soft limit of open files, as far as the hard one and the service manager let us.

    Returns how many connections that leaves room for.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS_MAX if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS_MAX)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):  # its unit may forbid the call, and set the limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return (
        DESCRIPTORS_MAX
        if soft == resource.RLIM_INFINITY
        else max(soft // 4, soft - OWN_DESCRIPTORS)
    )


def listen_tcp(host: str, port: int) -> list[socket.socket]:
    """One socket for each address of ``host``, all on the same port; 0 takes a free one.

    Raises:
        ConfigurationInvalid: an address is in use or not this device's.
    """
    sockets: list[socket.socket] = []
    try:
        # Without the protocol named asyncio does not set TCP_NODELAY, and each answer waits 40 ms
        # for the client's delayed acknowledgement of its headers.
        found = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP, flags=socket.AI_PASSIVE
        )
        addresses = dict.fromkeys((family, address) for family, _, _, _, address in found)
        for family, (name, wanted, *scope) in addresses:
            taken = sockets[0].getsockname()[1] if sockets else wanted
            sockets.append(_bound(family, (name, taken, *scope)))
    except OSError as error:
        for each in sockets:
            each.close()
        raise ConfigurationInvalid(
            f"The gateway cannot listen on {host} port {port}: {error.strerror}.",
            next_step="choose another address for serving in the agent's configuration.",
        ) from error
    return sockets


def _bound(family: int, address: Any) -> socket.socket:
    listener = HighListener(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


class UnixListener:
    """A socket file, put in its place whole: nobody meets it before its permissions are right."""

    def __init__(self, path: Path, mode: int) -> None:
        """
        Raises:
            ConfigurationInvalid: another process answers there, or it is no place for a socket.
        """
        self.path = path
        if len(os.fsencode(path)) + len(".new") > PATH_BYTES_MAX:
            raise _impossible(path, f"the path is over {PATH_BYTES_MAX - len('.new')} bytes")
        _refuse_what_is_alive(path)
        new = path.with_name(f"{path.name}.new")
        self.socket = HighListener(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            new.unlink(missing_ok=True)
            self.socket.bind(str(new))
            new.chmod(mode)
            self.socket.listen(BACKLOG)
            new.replace(path)  # one that a dead process left there goes with it
            self._inode = path.stat().st_ino
        except OSError as error:
            self.socket.close()
            raise _impossible(path, str(error.strerror)) from error

    def remove(self) -> None:
        """Take the file away if it is still ours."""
        with suppress(OSError):
            if self.path.stat().st_ino == self._inode:
                self.path.unlink()


def _refuse_what_is_alive(path: Path) -> None:
    try:
        is_socket = stat.S_ISSOCK(path.lstat().st_mode)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _impossible(path, str(error.strerror)) from error
    if not is_socket:
        raise _impossible(path, "there is something else than a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_SECONDS)
        if probe.connect_ex(str(path)) in (0, errno.EAGAIN, errno.EINPROGRESS):
            raise _impossible(path, "another process answers there")


def _impossible(path: Path, why: str) -> ConfigurationInvalid:
    return ConfigurationInvalid(
        f"The gateway cannot listen on {path}: {why}.",
        next_step="choose another place for serve_socket in the agent's configuration.",
    )

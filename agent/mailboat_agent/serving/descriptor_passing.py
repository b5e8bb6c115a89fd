"""An open file handed from the agent to a worker, over the socket that they talk on.

Source: unix(7), SCM_RIGHTS.
"""

import array
import socket

BUNDLE_BYTES_MAX = 64 << 20  # of one release's files; they are in memory twice while its code runs
_TOKEN = b"D"  # one byte must travel with a descriptor


def send_descriptor(sock: socket.socket, descriptor: int) -> None:
    """Raises OSError."""
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))
    sock.sendmsg([_TOKEN], [rights])


def receive_descriptor(sock: socket.socket) -> int:
    """The caller closes it.

    Raises:
        OSError: none came.
    """
    _, ancillary, _, _ = sock.recvmsg(
        len(_TOKEN), socket.CMSG_SPACE(array.array("i").itemsize), socket.MSG_CMSG_CLOEXEC
    )
    descriptors = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
    if len(descriptors) != 1:
        raise OSError("no descriptor came")
    return descriptors[0]

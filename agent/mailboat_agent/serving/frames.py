"""Frames between agent and worker: four bytes of length, then msgpack.

Both ends read with a bound before they allocate. The socket is a private pair, so there is no
version inside: a worker is always started by the very agent that talks to it.
"""

import socket
import struct
import time
from typing import Any, TypeVar

import msgpack

FRAME_BYTES_MAX = 64 << 20  # two of the largest tensors, or a whole golden file
# Of what comes out of a frame: a byte of an empty list is 64 bytes of ours, so 64 MiB of them would
# be all the memory of a device. Tensors are few values, however large.
LIST_VALUES_MAX = 4096  # of one list or map: the inputs of the largest model are far fewer
VALUES_MAX = 65_536  # of all of them together
TOGETHER_BYTES_MAX = 64 << 10  # with their length in one write; copying more costs more than that
_HEADER = struct.Struct(">I")
_Held = TypeVar("_Held", list[Any], dict[str, Any])


class FrameTooLarge(ValueError):
    """A frame over FRAME_BYTES_MAX, to be sent or announced by the other end."""


class PeerGone(ConnectionError):
    """The other end closed its socket, between frames or within one."""


def send_frame(sock: socket.socket, content: Any, *, deadline: float | None = None) -> None:
    """Send one frame. ``deadline`` is of `time.monotonic`, None waits as long as it takes.

    Raises:
        FrameTooLarge: nothing was sent.
        PeerGone, TimeoutError: the frame was sent in part; the socket is of no further use.
    """
    body: bytes = msgpack.packb(content, use_bin_type=True)
    if len(body) > FRAME_BYTES_MAX:
        raise FrameTooLarge(f"{len(body)} bytes are over {FRAME_BYTES_MAX}")
    sock.settimeout(_remaining(deadline))
    try:
        if len(body) <= TOGETHER_BYTES_MAX:
            sock.sendall(_HEADER.pack(len(body)) + body)
        else:
            sock.sendall(_HEADER.pack(len(body)))
            sock.sendall(body)
    except (BrokenPipeError, ConnectionResetError) as error:
        raise PeerGone("the other end is gone") from error


def receive_frame(sock: socket.socket, *, deadline: float | None = None) -> Any:
    """Receive one frame.

    Raises:
        FrameTooLarge: announced as over the bound; nothing of it was read.
        PeerGone, TimeoutError: the socket is of no further use.
        ValueError: the body is not msgpack, or holds more values than a frame of ours.
    """
    (length,) = _HEADER.unpack(_receive_exactly(sock, _HEADER.size, deadline))
    if length > FRAME_BYTES_MAX:
        raise FrameTooLarge(f"{length} bytes are over {FRAME_BYTES_MAX}")
    count = _Count()
    return msgpack.unpackb(
        _receive_exactly(sock, length, deadline),
        raw=False,
        max_array_len=LIST_VALUES_MAX,
        max_map_len=LIST_VALUES_MAX,
        list_hook=count,
        object_hook=count,
    )


class _Count:
    """Told of each list and map of a frame as soon as it is read."""

    def __init__(self) -> None:
        self._values = 0

    def __call__(self, held: _Held) -> _Held:
        self._values += 1 + len(held)
        if self._values > VALUES_MAX:
            raise ValueError(f"more than {VALUES_MAX} values")
        return held


def _receive_exactly(sock: socket.socket, length: int, deadline: float | None) -> bytearray:
    content = bytearray(length)
    view = memoryview(content)
    while view:
        sock.settimeout(_remaining(deadline))
        try:
            count = sock.recv_into(view)
        except ConnectionResetError:
            count = 0
        if count == 0:
            raise PeerGone("the other end is gone")
        view = view[count:]
    return content


def _remaining(deadline: float | None) -> float | None:
    if deadline is None:
        return None
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise TimeoutError("the deadline has passed")
    return remaining

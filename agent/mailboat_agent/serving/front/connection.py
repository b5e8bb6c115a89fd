"""One connection: requests read one after the other, each answered before the next is looked at.

The states are those of `Stage`. A body of known length is received straight into the buffer that
its tensors will be views of. Every wait has an end, which the server's sweep enforces: a client
that drips its request, or takes its answer in drips, is cut off.
"""

import asyncio
import logging
import math
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from enum import Enum, auto
from typing import cast

from mailboat_agent.serving.front.answers import Problem, Response
from mailboat_agent.serving.front.http_message import (
    HEAD_BYTES_MAX,
    BadMessage,
    Chunks,
    Head,
    encode_head,
    parse_head,
)
from mailboat_agent.serving.front.request import (
    REQUEST_BYTES_MAX,
    UNASKED_BYTES_MAX,
    Application,
    Patience,
    Request,
    Welcome,
)
from mailboat_agent.serving.front.room import Room
from mailboat_agent.serving.tensors import Buffer

RECEIVE_BYTES = 64 << 10  # one buffer for all connections: heads and chunks are small
BODY_STEP_BYTES_MAX = 1 << 20  # allocated ahead of what has come: an announcement costs no memory
JOIN_BYTES_MAX = 64 << 10  # a smaller answer is one segment
IDLE_SECONDS_MAX = 75.0  # between two requests; longer than the usual client keeps one
LINGER_BYTES_MAX = 4 * REQUEST_BYTES_MAX  # of a refused body, thrown away so the answer arrives
_AGAIN = {"retry-after": "1"}

_log = logging.getLogger(__name__)


class Stage(Enum):
    HEAD = auto()
    BODY = auto()
    ANSWER = auto()
    LINGER = auto()  # the answer is sent, the rest of the request is thrown away
    CLOSED = auto()


class Connection(asyncio.BufferedProtocol):
    def __init__(
        self,
        application: Application,
        *,
        room: Room,
        received: bytearray,
        patience: Patience,
        connections: "set[Connection]",
        welcome: Callable[[], Welcome],
    ) -> None:
        """``welcome`` is asked once it is connected."""
        self._application = application
        self._room = room
        self._received = received
        self._patience = patience
        self._connections = connections
        self._welcome = welcome
        self._transport: asyncio.Transport
        self._waiting = bytearray()  # arrived and not yet looked at
        self._stage = Stage.HEAD
        self._head: Head | None = None
        self._body = bytearray()
        self._length = 0  # of a body that announces it
        self._filled = 0  # bytes of the body that are there; the buffer is ahead of them
        self._chunks: Chunks | None = None
        self._lease = room.lease()  # of the request at hand; each has its own
        self._unsent = room.lease()
        self._began = 0.0
        self._abandon: Callable[[], None] | None = None
        self._advancing = self._writing = self._ends = False
        self._discarded_bytes = 0
        self.expires = math.inf  # time.monotonic

    # --- asyncio's side --------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        welcome = self._welcome()
        self._connections.add(self)
        self.expires = time.monotonic() + IDLE_SECONDS_MAX
        if welcome is Welcome.REFUSED:
            self._refuse(Problem(503, "Too many clients are connected.", _AGAIN))
        elif welcome is Welcome.CUT_OFF:
            self._transport.abort()

    def get_buffer(self, _sizehint: int) -> memoryview:
        if self._stage is not Stage.BODY or self._chunks is not None:
            return memoryview(self._received)
        if self._filled == len(self._body):
            step = min(self._length - self._filled, max(self._filled, BODY_STEP_BYTES_MAX))
            self._body += bytes(step)
        return memoryview(self._body)[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        if self._stage is Stage.BODY and self._chunks is None:
            self._filled += nbytes
            self._guard(self._body_grew)
        elif self._stage in (Stage.LINGER, Stage.CLOSED):
            self._discarded_bytes += nbytes
            if self._discarded_bytes > LINGER_BYTES_MAX:
                self.cut()
            return
        else:
            with memoryview(self._received) as view:
                self._waiting += view[:nbytes]
        self._advance()

    def pause_writing(self) -> None:
        self._writing = True
        self.expires = time.monotonic() + self._patience.answer

    def resume_writing(self) -> None:
        self._writing = False
        self._unsent.release()
        if self._stage is Stage.HEAD:
            self.expires = time.monotonic() + IDLE_SECONDS_MAX
            self._advance()

    def connection_lost(self, _error: Exception | None) -> None:
        self._connections.discard(self)
        self._unsent.release()
        answering, self._stage = self._stage is Stage.ANSWER, Stage.CLOSED
        if answering and self._abandon is not None:
            self._abandon()  # the request's own lease ends with it
        else:
            self._lease.release()

    # --- the server's side -----------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        return self._stage is Stage.HEAD and not self._waiting and not self._writing

    def expire(self) -> None:
        """It took longer than it may."""
        if self._writing or self._stage in (Stage.LINGER, Stage.CLOSED) or self.idle:
            self.cut()
        elif self._stage is Stage.HEAD:
            self._refuse(Problem(408, f"The headers did not come within {self._patience.head} s."))
        elif self._stage is Stage.BODY:
            self._refuse(Problem(408, f"The body did not come within {self._patience.body} s."))

    def end_soon(self) -> None:
        """Now if nothing is asked, else with the answer, which says so."""
        self._ends = True
        if self.idle:
            self.cut()

    def cut(self) -> None:
        if self._writing:  # the kernel too shall forget what the client does not take
            no_linger = struct.pack("ii", 1, 0)
            sock = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_linger)
        self._transport.abort()

    # --- reading ---------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Go on as far as what has arrived allows. Answers may be given within, or later."""
        if self._advancing:
            return
        self._advancing = True
        try:
            while self._step():
                pass
        finally:
            self._advancing = False

    def _step(self) -> bool:
        if self._stage is Stage.HEAD and not self._writing:
            return self._guard(self._read_head)
        if self._stage is Stage.BODY and self._chunks is not None:
            return self._guard(self._read_chunks)
        if self._stage is Stage.ANSWER and len(self._waiting) > HEAD_BYTES_MAX:
            self._transport.pause_reading()  # the next requests wait in the kernel
        return False

    def _guard(self, read: Callable[[], bool]) -> bool:
        try:
            return read()
        except BadMessage as error:
            self._refuse(Problem(error.status, str(error)))
        except Problem as problem:
            self._refuse(problem)
        return False

    def _read_head(self) -> bool:
        while self._waiting.startswith(b"\r\n"):  # some clients end a body with one too many
            del self._waiting[:2]
        if not self._waiting:
            return False
        end = self._waiting.find(b"\r\n\r\n", 0, HEAD_BYTES_MAX)
        if end < 0:
            if len(self._waiting) >= HEAD_BYTES_MAX:
                raise BadMessage(f"Headers may have {HEAD_BYTES_MAX} bytes.", 431)
            if self._began == 0:
                self._began = time.monotonic()
                self.expires = self._began + self._patience.head
            return False
        self._head = head = parse_head(bytes(self._waiting[:end]))
        del self._waiting[: end + 4]
        self._began = time.monotonic()
        self._length = 0 if head.length is None else head.length
        if self._length > REQUEST_BYTES_MAX:
            raise _too_large()
        if head.length == 0:
            return self._begin(bytearray())
        if head.length is None or self._length > UNASKED_BYTES_MAX:
            self._application.admit(head)
        self._stage = Stage.BODY
        self._filled = 0
        self.expires = self._began + self._patience.body
        self._chunks = Chunks() if head.length is None else None
        if head.expects_continue and not self._waiting:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if head.length is not None:
            self._body = bytearray(self._waiting[: head.length])
            del self._waiting[: head.length]
            self._filled = len(self._body)
            return self._body_grew()
        self._body = bytearray()
        return True

    def _body_grew(self) -> bool:
        self._hold(len(self._body))
        if self._filled < self._length:
            return False
        body, self._body = self._body, bytearray()
        return self._begin(body)

    def _read_chunks(self) -> bool:
        whole = cast("Chunks", self._chunks).take(self._waiting, self._body)
        if len(self._body) > REQUEST_BYTES_MAX:
            raise _too_large()
        self._hold(len(self._body))
        if not whole:
            return False
        self._chunks = None
        body, self._body = self._body, bytearray()
        return self._begin(body)

    def _hold(self, size_bytes: int) -> None:
        if not self._lease.grow_to(size_bytes):
            raise Problem(503, "Too many large requests at once.", _AGAIN)

    # --- answering -------------------------------------------------------------------------------

    def _begin(self, body: bytearray) -> bool:
        self._stage = Stage.ANSWER
        self.expires = math.inf  # the exchange has a deadline of its own
        head = cast("Head", self._head)
        request = Request(head, body, self._lease, self._began)
        try:
            self._abandon = self._application.begin(request, self._reply)
        except Problem as problem:
            self._reply(problem.response)
        except Exception:  # noqa: BLE001 - one request's failure is not the gateway's end
            _log.exception("The gateway failed on %r", head.path)
            self._reply(Problem(500, "The gateway failed; see the agent's log.").response)
        return True

    def _reply(self, response: Response) -> None:
        if self._stage is not Stage.ANSWER:
            return  # the client is gone
        self._abandon = None
        self._send(response)
        self._advance()

    def _refuse(self, problem: Problem) -> None:
        """Answer a request that is not read to its end; the connection ends with it."""
        refused = problem.response
        self._body = bytearray()
        self._send(Response(refused.status, refused.body, refused.headers, close=True))

    def _send(self, response: Response) -> None:
        head, self._head = self._head, None
        keep = head is not None and head.keep_alive and not (response.close or self._ends)
        headers = dict(response.headers)
        if not keep:
            headers["connection"] = "close"
        elif head is not None and "connection" in head.headers:
            headers["connection"] = "keep-alive"  # HTTP/1.0 has to be told
        size_bytes = response.body_bytes
        parts: list[Buffer] = [encode_head(response.status, headers, size_bytes)]
        if head is None or head.method != "HEAD":
            parts += response.body
        self._stage = Stage.HEAD if keep else Stage.LINGER
        self._began = 0.0
        now = time.monotonic()
        self.expires = now + (IDLE_SECONDS_MAX if keep else self._patience.linger)
        if size_bytes <= JOIN_BYTES_MAX:
            parts = [b"".join(parts)]
        for part in parts:
            self._transport.write(part)  # may call pause_writing
        self._lease.release()
        self._lease = self._room.lease()
        if self._writing:
            self._unsent.set(self._transport.get_write_buffer_size())
        if keep:
            self._transport.resume_reading()
            return
        if response.close:
            with suppress(OSError):  # it is gone already
                self._transport.write_eof()  # what still comes is read: a reset could overtake us
            return
        self._stage = Stage.CLOSED
        self.expires = now + self._patience.answer
        self._transport.close()


def _too_large() -> Problem:
    return Problem(413, f"A request may have {REQUEST_BYTES_MAX} bytes.")

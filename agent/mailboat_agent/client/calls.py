"""HTTP calls over TCP or a Unix socket: kept connections, tries, one deadline over all of them."""

import http.client
import json
import random
import socket
import threading
import time
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field

from .errors import ClientError, Late

ANSWER_BYTES_MAX = 64 << 20
KEPT_CONNECTIONS_MAX = 64  # between calls; as many threads may call at once without connecting anew
RETRY_SECONDS_MIN = 0.05  # where an answer does not say when, and between two connections
DEADLINE_HEADER = "mailboat-deadline-ms"
_JITTER = 0.25  # of a wait, added so that clients refused together do not come back together


@dataclass(frozen=True)
class Call:
    """``repeatable``: it may be sent again when it is not known whether it arrived."""

    method: str
    path: str
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    repeatable: bool = True
    tries_max: int | None = None


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Mapping[str, str]  # names in lower case
    content: bytes
    tries: int = 1


class Caller:
    """Safe between threads: a call has a connection to itself."""

    def __init__(self, address: str, rng: random.Random) -> None:
        """
        Raises:
            ClientError: the address is none.
        """
        parts = urllib.parse.urlsplit(address)
        if not ((parts.scheme == "http" and parts.hostname) or (parts.scheme == "unix")):
            raise ClientError(f"{address!r} is neither http://host:port nor unix:///path.")
        self._parts = parts
        self._rng = rng
        self._kept: list[http.client.HTTPConnection] = []
        self._closed = False
        self._lock = threading.Lock()  # of the two above

    def call(self, call: Call, deadline_seconds: float) -> Reply:
        """
        Raises:
            Late, ClientError
        """
        deadline = time.monotonic() + deadline_seconds
        tries = 0
        failure: ClientError = Late(f"No answer within {deadline_seconds:.3g} s.")
        while True:
            tries += 1
            left = deadline - time.monotonic()
            if left <= 0:
                raise failure  # of the last try: it says more than that time is over
            try:
                reply = self._once(call, left, tries)
            except TimeoutError as error:
                raise Late(f"No answer within {deadline_seconds:.3g} s.") from error
            except (OSError, http.client.HTTPException) as error:
                failure = ClientError(f"The device cannot be asked: {error}.", again=True)
                failure.__cause__ = error
                if not call.repeatable:
                    raise failure from error
                wait_seconds = RETRY_SECONDS_MIN
            else:
                if reply.status < 300:
                    return reply
                failure = _failure(reply)
                if not failure.again:
                    raise failure
                wait_seconds = _retry_seconds(reply)
            wait_seconds *= 1 + _JITTER * self._rng.random()
            if tries == call.tries_max or time.monotonic() + wait_seconds >= deadline:
                raise failure
            time.sleep(wait_seconds)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            kept, self._kept = self._kept, []
        for connection in kept:
            connection.close()

    # --- one try ---------------------------------------------------------------------------------

    def _once(self, call: Call, seconds: float, tries: int) -> Reply:
        connection = self._take(seconds)
        try:
            headers = {**call.headers, DEADLINE_HEADER: f"{max(seconds * 1000, 0.001):.3f}"}
            connection.request(call.method, call.path, call.body, headers)
            response = connection.getresponse()
            content = _content(response)
        except BaseException:
            connection.close()
            raise
        self._keep(connection)
        found = {name.lower(): value for name, value in response.getheaders()}
        return Reply(response.status, found, content, tries)

    def _take(self, seconds: float) -> http.client.HTTPConnection:
        while True:
            with self._lock:
                connection = self._kept.pop() if self._kept else None
            if connection is None:
                return self._new(seconds)
            if not _is_over(connection.sock):
                connection.sock.settimeout(seconds)
                return connection
            connection.close()

    def _keep(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            room = not self._closed and len(self._kept) < KEPT_CONNECTIONS_MAX
            if room and connection.sock is not None:
                self._kept.append(connection)
                return
        connection.close()

    def _new(self, seconds: float) -> http.client.HTTPConnection:
        if self._parts.scheme == "unix":
            return _UnixConnection(self._parts.path, seconds)
        return http.client.HTTPConnection(
            self._parts.hostname or "", self._parts.port, timeout=seconds
        )


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, seconds: float) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _is_over(sock: socket.socket) -> bool:
    """Whether the device has closed a connection that was kept."""
    sock.settimeout(0)
    try:
        sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def _content(response: http.client.HTTPResponse) -> bytes:
    content = response.read(ANSWER_BYTES_MAX + 1)
    if len(content) > ANSWER_BYTES_MAX:
        raise ClientError(f"The answer is over {ANSWER_BYTES_MAX} bytes.")
    if response.length:  # http.client does not say so where it is asked for a number of bytes
        raise http.client.IncompleteRead(content, response.length)
    return content


def _failure(reply: Reply) -> ClientError:
    try:
        what = str(json.loads(reply.content)["error"])
    except (ValueError, KeyError, TypeError):
        what = f"The device answered with the status {reply.status}."
    if reply.status == http.HTTPStatus.GATEWAY_TIMEOUT:
        return Late(what, status=reply.status)
    again = reply.status == http.HTTPStatus.SERVICE_UNAVAILABLE
    return ClientError(what, status=reply.status, again=again)


def _retry_seconds(reply: Reply) -> float:
    text = reply.headers.get("retry-after", "")
    return max(RETRY_SECONDS_MIN, float(text)) if text.isascii() and text.isdigit() else 1.0

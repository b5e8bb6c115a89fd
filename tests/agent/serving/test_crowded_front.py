"""The front when it is crowded: many newcomers at once, few descriptors, an end in between."""

import resource
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from agent_process import until
from mailboat_agent.serving.front import listeners
from mailboat_agent.serving.front.answers import Response
from mailboat_agent.serving.front.connection import Connection
from mailboat_agent.serving.front.http_message import Head
from mailboat_agent.serving.front.listeners import (
    BACKLOG,
    OWN_DESCRIPTORS,
    UnixListener,
    allow_descriptors,
)
from mailboat_agent.serving.front.request import Patience, Request
from mailboat_agent.serving.front.room import Room
from mailboat_agent.serving.front.server import REFUSED_MAX, Server

GET = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"


class Later:
    """Answers when it is told to, or at once."""

    def __init__(self) -> None:
        self.waits = False
        self.reply: Callable[[Response], None] | None = None

    def admit(self, head: Head) -> None:
        pass

    def begin(self, _request: Request, reply: Callable[[Response], None]) -> None:
        self.reply = reply
        if not self.waits:
            reply(Response(200, (b"done",)))


@contextmanager
def running(
    path: Path, application: Later, patience: Patience | None = None, connections_max: int = 50
) -> Iterator[Server]:
    listener = UnixListener(path, 0o600)
    server = Server(
        lambda: application,
        [listener.socket],
        room=Room(),
        patience=patience or Patience(),
        connections_max=connections_max,
    )
    assert server.start()
    try:
        yield server
    finally:
        server.close()


def connect(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(20)
    sock.connect(str(path))
    return sock


def whole(sock: socket.socket) -> bytes:
    """All that is sent, to its end; nothing if the connection is reset."""
    found = b""
    try:
        while got := sock.recv(4096):
            found += got
    except ConnectionError:
        return b""
    return found


def test_so_many_may_knock_at_once_as_the_backlog_says(tmp_path: Path) -> None:
    """asyncio listens anew with a hundred; on a Unix socket the next one is told EAGAIN."""
    application, knocks = Later(), min(BACKLOG, 400)
    application.waits = True
    with running(tmp_path / "s", application) as server, ExitStack() as stack:
        held, free = threading.Event(), threading.Event()

        def hold() -> None:
            held.set()
            free.wait(60)

        server._loop.call_soon_threadsafe(hold)  # so nobody is accepted in between
        assert held.wait(60)
        try:
            for _ in range(knocks):
                sock = stack.enter_context(socket.socket(socket.AF_UNIX))
                sock.setblocking(False)
                sock.connect(str(tmp_path / "s"))
        finally:
            free.set()


def test_a_flood_of_newcomers_is_cut_off_once_enough_are_being_told(tmp_path: Path) -> None:
    """Each of them has a descriptor, and the agent needs some for itself."""
    patience = Patience(linger=20)
    with (
        running(tmp_path / "s", Later(), patience, connections_max=1) as server,
        ExitStack() as stack,
    ):
        first = stack.enter_context(connect(tmp_path / "s"))
        until(lambda: len(server._connections) == 1)
        flood = [stack.enter_context(connect(tmp_path / "s")) for _ in range(REFUSED_MAX + 40)]

        found = [whole(each) for each in flood]

        assert sum(each.startswith(b"HTTP/1.1 503") for each in found) == REFUSED_MAX
        assert found.count(b"") == 40
        first.sendall(GET)
        assert first.recv(15) == b"HTTP/1.1 200 OK"


def test_one_connection_that_cannot_be_ended_does_not_protect_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ends, failed = Connection.expire, threading.Event()

    def fails_once(connection: Connection) -> None:
        if not failed.is_set():
            failed.set()
            raise OSError("not connected")
        ends(connection)

    monkeypatch.setattr(Connection, "expire", fails_once)
    with running(tmp_path / "s", Later(), Patience(head=0.05)), connect(tmp_path / "s") as slow:
        slow.sendall(GET[:5])

        assert whole(slow).startswith(b"HTTP/1.1 408")
    assert failed.is_set()
    assert "could not be ended" in caplog.text


def test_the_last_answer_before_the_end_says_so(tmp_path: Path) -> None:
    """So that its client does not ask once more on a connection that is gone."""
    application = Later()
    application.waits = True
    with running(tmp_path / "s", application) as server:
        client = connect(tmp_path / "s")
        client.sendall(GET)
        until(lambda: application.reply is not None)
        ending = threading.Thread(target=server.close)
        ending.start()
        until(lambda: all(each._ends for each in tuple(server._connections)))
        assert application.reply is not None
        server._loop.call_soon_threadsafe(application.reply, Response(200, (b"done",)))
        found = whole(client)
        ending.join()
        client.close()

    assert b"connection: close" in found
    assert found.endswith(b"done")


def test_there_are_never_more_connections_than_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    def limit(soft: int, hard: int) -> SimpleNamespace:
        return SimpleNamespace(
            RLIMIT_NOFILE=resource.RLIMIT_NOFILE,
            RLIM_INFINITY=resource.RLIM_INFINITY,
            getrlimit=lambda _: (soft, hard),
            setrlimit=lambda *_: None,
        )

    monkeypatch.setattr(listeners, "resource", limit(1024, 1024))
    assert allow_descriptors() == 1024 - OWN_DESCRIPTORS
    monkeypatch.setattr(listeners, "resource", limit(256, 256))
    assert allow_descriptors() == 64

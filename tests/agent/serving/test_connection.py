"""The front's server and its connections, with an application that says what it was asked."""

import http.client
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from mailboat_agent.serving.front.answers import Problem, Response
from mailboat_agent.serving.front.http_message import HEAD_BYTES_MAX, Head
from mailboat_agent.serving.front.listeners import (
    HIGH_DESCRIPTOR,
    UnixListener,
    allow_descriptors,
    listen_tcp,
)
from mailboat_agent.serving.front.request import REQUEST_BYTES_MAX, Patience, Request
from mailboat_agent.serving.front.room import Room
from mailboat_agent.serving.front.server import Server
from mailboat_schemas.errors import ConfigurationInvalid

MIB = 1 << 20
POST = b"POST /echo HTTP/1.1\r\nhost: a\r\n"


class Echo:
    """Answers a request with its own body, or as its path says."""

    def __init__(self) -> None:
        self.gone = threading.Event()
        self.asked: list[str] = []
        self.reply: Callable[[Response], None] | None = None

    def admit(self, head: Head) -> None:
        if head.path == "/refused":
            raise Problem(404, "nobody wants it")

    def begin(
        self, request: Request, reply: Callable[[Response], None]
    ) -> Callable[[], None] | None:
        self.asked.append(request.head.path)
        match request.head.path:
            case "/later":
                self.reply = reply
                return self.gone.set
            case "/fails":
                raise ZeroDivisionError
            case "/large":
                reply(Response(200, (bytes(32 * MIB),)))
            case _:
                reply(Response(200, (bytes(request.body),)))
        return None


@contextmanager
def running(
    echo: Echo,
    *,
    room: Room | None = None,
    patience: Patience | None = None,
    connections_max: int = 50,
) -> Iterator[tuple[str, int]]:
    sockets = listen_tcp("127.0.0.1", 0)
    server = Server(
        lambda: echo,
        sockets,
        room=room or Room(),
        patience=patience or Patience(),
        connections_max=connections_max,
    )
    address = sockets[0].getsockname()
    assert server.start()
    try:
        yield address
    finally:
        server.close()


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[Echo, tuple[str, int]]]:
    echo = Echo()
    with running(echo) as address:
        yield echo, address


@pytest.fixture
def echo(shared: tuple[Echo, tuple[str, int]]) -> Echo:
    shared[0].asked.clear()
    return shared[0]


@pytest.fixture
def client(shared: tuple[Echo, tuple[str, int]]) -> Iterator[socket.socket]:
    with closing(connect(shared[1])) as sock:
        yield sock


def connect(address: tuple[str, int]) -> socket.socket:
    return socket.create_connection(address, timeout=60)


def answer(sock: socket.socket, method: str = "POST") -> tuple[int, bytes]:
    response = http.client.HTTPResponse(sock, method=method)
    response.begin()
    return response.status, response.read()


def read_on(sock: socket.socket) -> None:
    while sock.recv(MIB):
        pass


def test_requests_that_come_at_once_are_answered_in_order(
    echo: Echo, client: socket.socket
) -> None:
    client.sendall(b"".join(POST + b"content-length: 1\r\n\r\n%d" % n for n in range(9)))
    whole = b""
    while whole.count(b"HTTP/1.1 200") < 9 or not whole.endswith(b"8"):
        whole += client.recv(4096)

    assert [part[-1:] for part in whole.split(b"HTTP/1.1 200 OK\r\n")[1:]] == [
        b"%d" % n for n in range(9)
    ]


@pytest.mark.parametrize("size", [1, 70_000, 3 * MIB])
def test_a_body_arrives_whole_by_length_and_in_chunks(
    echo: Echo, client: socket.socket, size: int
) -> None:
    body = os.urandom(size)
    client.sendall(POST + b"content-length: %d\r\n\r\n" % size + body)
    assert answer(client) == (200, body)

    client.sendall(POST + b"transfer-encoding: chunked\r\n\r\n%x\r\n" % size + body)
    client.sendall(b"\r\n0\r\n\r\n")
    assert answer(client) == (200, body)


def test_one_byte_at_a_time_is_the_same_request(echo: Echo, client: socket.socket) -> None:
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in POST + b"content-length: 3\r\n\r\nabc":
        client.sendall(bytes([byte]))

    assert answer(client) == (200, b"abc")


def test_who_waits_for_permission_gets_it(echo: Echo, client: socket.socket) -> None:
    client.sendall(POST + b"content-length: 3\r\nexpect: 100-continue\r\n\r\n")
    assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.sendall(b"abc")

    assert answer(client) == (200, b"abc")


def test_head_has_headers_and_no_body(echo: Echo, client: socket.socket) -> None:
    client.sendall(b"HEAD /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nab")
    assert answer(client, "HEAD") == (200, b"")
    client.sendall(POST + b"content-length: 1\r\n\r\nc")
    assert answer(client) == (200, b"c")


@pytest.mark.parametrize(
    ("message", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (POST + b"content-length: 1\r\ncontent-length: 2\r\n\r\nab", 400),
        (POST + b"transfer-encoding: gzip\r\n\r\n", 501),
        (POST + b"transfer-encoding: chunked\r\n\r\nzz\r\n", 400),
        (POST + b"x: " + b"a" * HEAD_BYTES_MAX, 431),
        (POST + b"content-length: %d\r\n\r\n" % (REQUEST_BYTES_MAX + 1), 413),
        (b"POST /refused HTTP/1.1\r\nhost: a\r\ncontent-length: 100000\r\n\r\n", 404),
        (b"POST /refused HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n", 404),
    ],
)
def test_what_is_refused_unread_ends_the_connection(
    echo: Echo, client: socket.socket, message: bytes, status: int
) -> None:
    client.sendall(message)

    assert answer(client)[0] == status
    assert client.recv(1) == b""
    assert echo.asked == []


def test_a_chunked_body_over_the_bound_is_413_and_the_answer_arrives(
    echo: Echo, client: socket.socket
) -> None:
    client.sendall(POST + b"transfer-encoding: chunked\r\n\r\n")
    chunk = b"100000\r\n" + bytes(MIB) + b"\r\n"
    for _ in range(REQUEST_BYTES_MAX // MIB + 2):
        client.sendall(chunk)  # thrown away once it is too much, not reset

    assert answer(client)[0] == 413


def test_a_failure_of_ours_is_500_and_the_connection_goes_on(
    echo: Echo, client: socket.socket
) -> None:
    client.sendall(b"GET /fails HTTP/1.1\r\nhost: a\r\n\r\n")
    assert answer(client)[0] == 500
    client.sendall(POST + b"content-length: 0\r\n\r\n")
    assert answer(client)[0] == 200


def test_a_client_that_goes_away_takes_its_request_with_it(
    echo: Echo, client: socket.socket
) -> None:
    client.sendall(b"GET /later HTTP/1.1\r\nhost: a\r\n\r\n")
    while not echo.asked:
        time.sleep(0.005)
    client.close()

    assert echo.gone.wait(60)


def test_old_and_parting_clients_are_told_that_it_ends(echo: Echo, client: socket.socket) -> None:
    client.sendall(b"POST /echo HTTP/1.0\r\ncontent-length: 1\r\n\r\na")

    assert answer(client) == (200, b"a")
    assert client.recv(1) == b""


# --- patience ------------------------------------------------------------------------------------


def test_who_drips_headers_or_body_or_never_reads_is_cut_off() -> None:
    patience = Patience(head=1, body=1, answer=1, linger=1)
    room = Room()
    with running(Echo(), patience=patience, room=room) as address:
        head, body, reader = (connect(address) for _ in range(3))
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        head.sendall(POST)
        body.sendall(POST + b"content-length: 1000000\r\n\r\na")
        reader.sendall(b"GET /large HTTP/1.1\r\nhost: a\r\n\r\n")
        began = time.monotonic()

        assert answer(head)[0] == 408
        assert answer(body)[0] == 408
        while room.held_bytes and time.monotonic() < began + 60:
            time.sleep(0.02)
        assert room.held_bytes == 0  # what the reader did not take is not kept
        with pytest.raises(ConnectionResetError):
            read_on(reader)
        for each in (head, body, reader):
            each.close()


def test_an_announcement_costs_no_memory_and_a_full_room_is_503() -> None:
    room = Room(4 * MIB)
    with running(Echo(), room=room) as address:
        waiting = [connect(address) for _ in range(3)]
        for each in waiting:  # 48 MiB are announced
            each.sendall(POST + b"content-length: %d\r\n\r\n" % REQUEST_BYTES_MAX + bytes(100_000))
        time.sleep(0.1)
        assert room.held_bytes <= 3 * (MIB + 200_000)
        waiting[0].sendall(bytes(6 * MIB))

        assert answer(waiting[0])[0] == 503
        for each in waiting:
            each.close()
        give_up = time.monotonic() + 60
        while room.held_bytes and time.monotonic() < give_up:
            time.sleep(0.01)
        assert room.held_bytes == 0


def test_one_client_too_many_is_503_and_the_others_are_served() -> None:
    with running(Echo(), connections_max=2) as address:
        first, second, third = (connect(address) for _ in range(3))

        assert answer(third)[0] == 503
        for each in (first, second):
            each.sendall(POST + b"content-length: 1\r\n\r\na")
            assert answer(each) == (200, b"a")
        for each in (first, second, third):
            each.close()


def test_closing_lets_a_request_finish_and_drops_who_is_idle() -> None:
    echo = Echo()
    with running(echo) as address:
        idle, busy = connect(address), connect(address)
        busy.sendall(b"GET /later HTTP/1.1\r\nhost: a\r\n\r\n")
        while echo.reply is None:
            time.sleep(0.005)
        # Not the loop's thread; the answer is due while the server closes.
        reply = echo.reply
        threading.Timer(0.1, reply, [Response(200, (b"done",))]).start()
    assert answer(busy) == (200, b"done")
    assert idle.recv(1) == b""
    for each in (idle, busy):
        each.close()


# --- sockets -------------------------------------------------------------------------------------


def test_connections_leave_the_low_descriptors_to_others(
    shared: tuple[Echo, tuple[str, int]],
) -> None:
    allow_descriptors()
    with closing(connect(shared[1])) as client:
        client.sendall(POST + b"content-length: 1\r\n\r\na")
        answer(client)
        descriptors = [int(each.name) for each in Path("/proc/self/fd").iterdir()]

    assert max(descriptors) >= HIGH_DESCRIPTOR


def test_a_name_listens_on_each_of_its_addresses_with_one_port() -> None:
    sockets = listen_tcp("localhost", 0)

    assert len({each.getsockname()[1] for each in sockets}) == 1
    assert {each.getsockname()[0] for each in sockets} <= {"127.0.0.1", "::1"}
    for each in sockets:
        each.close()


def test_a_socket_file_has_its_permissions_and_goes_when_it_is_ours(tmp_path: Path) -> None:
    path = tmp_path / "serve.sock"
    listener = UnixListener(path, 0o600)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["serve.sock"]
    listener.remove()
    assert not path.exists()
    listener.socket.close()


def test_a_stale_socket_file_is_replaced_and_one_that_answers_is_not(tmp_path: Path) -> None:
    path = tmp_path / "serve.sock"
    UnixListener(path, 0o600).socket.close()  # as after a power cut
    assert path.exists()

    alive = UnixListener(path, 0o600)
    with pytest.raises(ConfigurationInvalid, match="another process answers"):
        UnixListener(path, 0o600)
    alive.remove()
    alive.socket.close()


@pytest.mark.parametrize("place", ["file", "missing/serve.sock", "long" * 40])
def test_a_place_for_no_socket_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("not ours to remove")

    with pytest.raises(ConfigurationInvalid, match="serve_socket"):
        UnixListener(tmp_path / place, 0o600)
    assert (tmp_path / "file").exists()


def test_a_socket_file_of_another_process_stays(tmp_path: Path) -> None:
    path = tmp_path / "serve.sock"
    listener = UnixListener(path, 0o600)
    path.unlink()
    path.write_text("another's")
    listener.remove()
    listener.socket.close()

    assert path.exists()

"""The demo's network, traffic and processes: real sockets, a real HTTP server, real processes."""

import hashlib
import http.server
import json
import os
import random
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mailboat_controller.demo import link as link_module
from mailboat_controller.demo.link import Link, Wires
from mailboat_controller.demo.processes import Process
from mailboat_controller.demo.traffic import InferenceFailed, Traffic, infer

SECONDS = 60
MEGABYTES = random.Random(7).randbytes(3 << 20)

Handler = Callable[[socket.socket], object]


def until(condition: Callable[[], object], what: str = "this") -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen in time"
        time.sleep(0.01)


def read_all(connection: socket.socket) -> bytes:
    parts = []
    while part := connection.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


def closed(connection: socket.socket) -> bool:
    """Whether the other side is gone; waits for it at most as long as the socket's timeout."""
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


@contextmanager
def listening(handle: Handler) -> Iterator[int]:
    """A server that handles each connection in a thread; yields its port."""
    server = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []

    def serve(connection: socket.socket) -> None:
        with connection:
            connection.settimeout(SECONDS)
            handle(connection)

    def accept() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=serve, args=[connection]))
            threads[-1].start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield server.getsockname()[1]
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        for thread in (accepting, *threads):
            thread.join(SECONDS)


@contextmanager
def linked(handle: Handler) -> Iterator[Link]:
    with listening(handle) as port, Wires(mqtt_port=port, api_port=port) as wires:
        yield wires.link()


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=SECONDS)


def echo(connection: socket.socket) -> None:
    try:
        while part := connection.recv(1 << 16):
            connection.sendall(part)
    except ConnectionError:
        pass


def asked_back(port: int, words: bytes = b"hello") -> bytes:
    with connect(port) as client:
        client.sendall(words)
        return client.recv(100)


class TestTheLink:
    def test_passes_megabytes_both_ways_unchanged(self) -> None:
        with linked(echo) as link, connect(link.mqtt_port) as client:
            sender = threading.Thread(
                target=lambda: (client.sendall(MEGABYTES), client.shutdown(socket.SHUT_WR))
            )
            sender.start()
            returned = read_all(client)
            sender.join()

        assert hashlib.sha256(returned).digest() == hashlib.sha256(MEGABYTES).digest()

    def test_each_link_has_its_own_way_to_both_servers(self) -> None:
        def says(word: bytes) -> Handler:
            return lambda connection: connection.sendall(word)

        with (
            listening(says(b"mqtt")) as mqtt,
            listening(says(b"api")) as api,
            Wires(mqtt_port=mqtt, api_port=api) as wires,
        ):
            one, other = wires.link(), wires.link()
            ports = {one.mqtt_port, one.api_port, other.mqtt_port, other.api_port}
            assert len(ports) == 4
            with connect(one.mqtt_port) as first, connect(other.api_port) as second:
                assert (read_all(first), read_all(second)) == (b"mqtt", b"api")

    def test_one_side_may_finish_speaking_and_still_listen(self) -> None:
        def answers_at_the_end(connection: socket.socket) -> None:
            connection.sendall(b"all of it: " + read_all(connection))

        with linked(answers_at_the_end) as link, connect(link.mqtt_port) as client:
            client.sendall(b"request")
            client.shutdown(socket.SHUT_WR)

            assert read_all(client) == b"all of it: request"

    def test_a_slow_reader_gets_the_last_byte_after_both_have_finished(self) -> None:
        last_words = MEGABYTES[:60_000]
        said = threading.Event()

        def speaks_and_leaves(connection: socket.socket) -> None:
            read_all(connection)
            connection.sendall(last_words)
            said.set()

        with linked(speaks_and_leaves) as link, closing(socket.socket()) as client:
            # Small buffers in the kernel: most of it stays in the relay's own.
            server = link._relays[0]._server
            assert server is not None
            server.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.settimeout(SECONDS)
            client.connect(("127.0.0.1", link.mqtt_port))
            client.shutdown(socket.SHUT_WR)
            assert said.wait(SECONDS)
            time.sleep(0.1)  # both have closed; the relay knows it

            assert read_all(client) == last_words

    def test_a_cut_drops_what_is_open_on_both_sides(self) -> None:
        ended = threading.Event()

        def waits(connection: socket.socket) -> None:
            connection.sendall(b"hello")
            if closed(connection):
                ended.set()

        with (
            linked(waits) as link,
            connect(link.mqtt_port) as mqtt,
            connect(link.api_port) as api,
        ):
            assert (mqtt.recv(10), api.recv(10)) == (b"hello", b"hello")
            link.cut()

            assert closed(mqtt)
            assert closed(api)
            assert ended.wait(SECONDS)
            assert not link.up

    def test_a_cut_refuses_what_comes_and_mending_lets_it_in_again(self) -> None:
        with linked(echo) as link:
            for _ in range(3):
                link.cut()
                with connect(link.mqtt_port) as client:
                    assert closed(client)
                link.mend()
                assert link.up
                assert asked_back(link.mqtt_port) == b"hello"

    def test_a_cut_of_one_link_leaves_the_others(self) -> None:
        with listening(echo) as port, Wires(mqtt_port=port, api_port=port) as wires:
            one, other = wires.link(), wires.link()
            with connect(other.mqtt_port) as client:
                client.sendall(b"before")
                assert client.recv(10) == b"before"
                one.cut()
                client.sendall(b"after")
                assert client.recv(10) == b"after"

    def test_a_connection_being_made_does_not_slip_through_a_cut(self) -> None:
        heard: list[bytes] = []

        def listens(connection: socket.socket) -> None:
            heard.append(b"" if closed(connection) else b"something")

        with linked(listens) as link:
            for _ in range(50):
                with connect(link.mqtt_port) as client:  # the relay may be anywhere by now
                    link.cut()
                    try:
                        client.sendall(b"x")
                        assert closed(client)
                    except ConnectionError:
                        pass
                link.mend()
        assert b"something" not in heard

    def test_a_side_that_breaks_off_breaks_the_other(self) -> None:
        """Else the broker would think a killed device alive until its keepalive ends."""
        ended = threading.Event()

        def waits(connection: socket.socket) -> None:
            connection.sendall(b"hello")
            if closed(connection):
                ended.set()

        with linked(waits) as link:
            client = connect(link.mqtt_port)
            assert client.recv(10) == b"hello"
            # A reset instead of a polite end, as of a process that was killed with bytes unread.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.close()

            assert ended.wait(SECONDS)

    def test_a_server_that_is_away_is_a_closed_connection(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as gone:
            port = gone.getsockname()[1]
        with (
            Wires(mqtt_port=port, api_port=port) as wires,
            connect(wires.link().mqtt_port) as client,
        ):
            assert closed(client)

    def test_carries_so_many_connections_and_not_one_more(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(link_module, "_CONNECTIONS_MAX", 3)
        with linked(echo) as link:
            clients = [connect(link.mqtt_port) for _ in range(3)]
            try:
                for client in clients:
                    client.sendall(b"hello")
                    assert client.recv(10) == b"hello"
                with connect(link.mqtt_port) as one_more:
                    assert closed(one_more)
            finally:
                for client in clients:
                    client.close()
            # Those that ended make room; the relay learns of it a moment later.
            until(lambda: _answers(link.mqtt_port), "room for another")

    def test_leaves_no_thread_and_no_port_behind(self) -> None:
        before = threading.active_count()
        with linked(echo) as link:
            port = link.mqtt_port
            client = connect(port)
            client.sendall(b"hello")
            assert client.recv(10) == b"hello"
        with client:
            assert closed(client)
        assert threading.active_count() == before
        with pytest.raises(ConnectionRefusedError):
            connect(port)


def _answers(port: int) -> bool:
    try:
        return asked_back(port) == b"hello"
    except ConnectionError:
        return False


ANSWER = {
    "model_name": "vad",
    "model_version": "1.2.0",
    "outputs": [{"name": "y", "shape": [1, 2], "datatype": "FP32", "data": [0.5, 1.5]}],
}


@contextmanager
def device(answer: bytes, status: int = 200) -> Iterator[tuple[int, list[Any]]]:
    """An HTTP server in a device's place; yields its port and the requests it got."""
    asked: list[Any] = []

    class Handle(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handle)
    thread = threading.Thread(target=server.serve_forever, args=[0.02])
    thread.start()
    try:
        yield server.server_address[1], asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class TestTraffic:
    def test_a_request_carries_its_tensors_and_brings_the_answers(self) -> None:
        with device(json.dumps(ANSWER).encode()) as (port, asked):
            version, outputs = infer(port, {"x": np.array([[1, 2], [3, 4]], dtype=np.int64)})

        assert version == "1.2.0"
        assert outputs["y"].tolist() == [[0.5, 1.5]]
        assert asked[0]["inputs"] == [
            {"name": "x", "shape": [2, 2], "datatype": "INT64", "data": [1, 2, 3, 4]}
        ]

    @pytest.mark.parametrize(
        ("answer", "status"),
        [
            (b"no such model", 404),
            (b"not json", 200),
            (b"[]", 200),
            (b"{}", 200),
            (json.dumps({**ANSWER, "outputs": [{"name": "y"}]}).encode(), 200),
            (json.dumps(ANSWER).replace("[1, 2]", "[7, 7]").encode(), 200),
        ],
    )
    def test_any_other_answer_is_a_failure(self, answer: bytes, status: int) -> None:
        with device(answer, status) as (port, _), pytest.raises(InferenceFailed):
            infer(port, {"x": np.zeros((1, 2), dtype=np.float32)})

    def test_goes_on_through_broken_answers_and_absent_devices(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as gone:
            away = gone.getsockname()[1]
        with device(b"not json") as (broken, _), device(json.dumps(ANSWER).encode()) as (good, _):
            ports = {"away": away, "broken": broken, "good": good}
            with Traffic(lambda: ports, seed=7, pause_seconds=0.001) as traffic:
                until(lambda: traffic.answered.get("good", 0) >= 3, "an answer after failures")

        assert set(traffic.answered) == {"good"}
        assert traffic.failed["away"] >= 3
        assert traffic.failed["broken"] >= 3


SLEEPER = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
STUBBORN = [sys.executable, "-c", f"{DEAF}; {SLEEPER[-1]}"]


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    process = Process("sleeper", SLEEPER, tmp_path / "logs" / "sleeper.log")
    yield process
    process.kill()


class TestProcesses:
    def test_are_started_killed_and_started_again_into_one_log(self, process: Process) -> None:
        assert not process.running
        process.start()
        until(lambda: process.log_tail() == "up\n")
        process.kill()
        assert not process.running
        process.start()
        until(lambda: process.log_tail() == "up\nup\n")
        process.stop()
        process.stop()

        assert not process.running

    def test_are_not_started_twice(self, process: Process) -> None:
        process.start()

        with pytest.raises(RuntimeError):
            process.start()

    def test_one_that_ended_by_itself_may_be_started_again(self, process: Process) -> None:
        process.command = [sys.executable, "-c", ""]
        process.start()
        until(lambda: not process.running)
        process.start()

    def test_one_that_does_not_listen_is_ended(
        self, process: Process, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("mailboat_controller.demo.processes.STOP_SECONDS_MAX", 0.1)
        process.command = STUBBORN
        process.start()
        until(lambda: process.log_tail() == "up\n")
        process.stop()

        assert not process.running

    def test_ctrl_c_does_not_reach_them(self, process: Process) -> None:
        process.start()
        until(lambda: process.log_tail() == "up\n")
        child = process._child
        assert child is not None

        assert os.getpgid(child.pid) != os.getpgid(0)
        assert os.getsid(child.pid) == child.pid

    def test_the_environment_is_added_to_ours(self, process: Process) -> None:
        process.command = [sys.executable, "-c", "import os; print(os.environ['BOAT'])"]
        process.environment = {"BOAT": "afloat"}
        process.start()

        until(lambda: process.log_tail() == "afloat\n")


def test_a_log_that_is_not_there_has_no_tail(tmp_path: Path) -> None:
    assert Process("none", SLEEPER, tmp_path / "none.log").log_tail() == ""

import asyncio
import contextlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mailboat_controller import https_server
from mailboat_controller.https_server import HttpsServer
from mailboat_controller.pki.certificates import holder_of
from mailboat_controller.pki.issuing import Authority, TlsFiles
from mailboat_schemas.errors import ConfigurationInvalid

NOW = datetime.now(UTC)


async def who(scope: Any, _receive: Any, send: Any) -> None:
    """Answers with the name in the client's certificate."""
    certificate = scope["extensions"]["tls"]["client_cert_der"]
    name = None if certificate is None else holder_of(certificate).name
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(name).encode()})


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.create(tmp_path_factory.mktemp("ca") / "pki", "demo", now=NOW)


@contextmanager
def served(authority: Authority, app: Any = who) -> Iterator[int]:
    files = authority.server_files(["localhost", "127.0.0.1"], now=NOW)
    server = HttpsServer(app, host="127.0.0.1", port=0, files=files)
    port = server.bind()
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    try:
        yield port
    finally:
        server.stop()
        thread.join()


def context_for(authority: Authority, files: TlsFiles | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority.ca_path))
    if files is not None:
        context.load_cert_chain(files.certificate, files.key)
    return context


@contextmanager
def connected(port: int, context: ssl.SSLContext) -> Iterator[ssl.SSLSocket]:
    with (
        socket.create_connection(("127.0.0.1", port), timeout=60) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as tls,
    ):
        yield tls


def ask(tls: ssl.SSLSocket, headers: bytes = b"") -> str:
    tls.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n" + headers + b"\r\n")
    answer = b""
    while not answer.endswith(b"0\r\n\r\n"):
        answer += tls.recv(65536) or pytest.fail("the connection was closed")
    return answer.split(b"\r\n")[-4].decode()


def test_the_app_learns_whose_certificate_it_is_on_every_request_of_a_connection(
    authority: Authority,
) -> None:
    files = authority.controller_files(now=NOW)
    with served(authority) as port, connected(port, context_for(authority, files)) as tls:
        assert ask(tls) == '"controller"'
        assert ask(tls) == '"controller"'


def test_a_client_without_certificate_is_let_in_as_nobody(authority: Authority) -> None:
    with served(authority) as port, connected(port, context_for(authority, None)) as tls:
        assert ask(tls) == "null"


def test_a_header_cannot_say_who_the_client_is(authority: Authority) -> None:
    forged = b"Client-Cert: :MIIB:\r\nX-Forwarded-For: 1.2.3.4\r\n"
    with served(authority) as port, connected(port, context_for(authority, None)) as tls:
        assert ask(tls, forged) == "null"


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_old_tls_is_refused(authority: Authority) -> None:
    context = context_for(authority, None)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    with served(authority) as port, pytest.raises(ssl.SSLError), connected(port, context):
        pass


def test_a_handshake_does_not_wait_for_a_delayed_acknowledgement(authority: Authority) -> None:
    with served(authority) as port:

        def seconds() -> float:
            began = time.monotonic()
            with connected(port, context_for(authority, None)) as tls:
                ask(tls)
            return time.monotonic() - began

        # Without TCP_NODELAY none takes less than 40 ms; a busy machine is slow now and then.
        assert any(seconds() < 0.035 for _ in range(100))


def test_a_connection_that_never_asks_is_closed(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(https_server, "FIRST_REQUEST_SECONDS", 0.1)
    with served(authority) as port, connected(port, context_for(authority, None)) as tls:
        assert tls.recv(1) == b""


@pytest.mark.parametrize(
    "drip", [b"", b"G", b"GET / HTTP/1.1\r\nX: "], ids=["nothing", "a byte", "half a header"]
)
def test_nor_does_one_stay_that_asked_once_and_then_drips(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, drip: bytes
) -> None:
    monkeypatch.setattr(https_server, "KEEP_ALIVE_SECONDS", 0.2)
    with served(authority) as port, connected(port, context_for(authority, None)) as tls:
        ask(tls)
        tls.sendall(drip)

        assert tls.recv(1) == b""


def test_nor_one_whose_body_goes_on_after_its_answer(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(https_server, "KEEP_ALIVE_SECONDS", 0.2)
    with served(authority) as port, connected(port, context_for(authority, None)) as tls:
        tls.sendall(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 999999\r\n\r\n")
        began = time.monotonic()
        with contextlib.suppress(OSError):
            while tls.recv(65536):
                tls.sendall(b"x")
                assert time.monotonic() < began + 30
        assert time.monotonic() < began + 30


def test_one_that_goes_on_asking_stays(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(https_server, "FIRST_REQUEST_SECONDS", 2.0)
    monkeypatch.setattr(https_server, "KEEP_ALIVE_SECONDS", 2.0)
    with served(authority) as port, connected(port, context_for(authority, None)) as tls:
        for _ in range(5):
            assert ask(tls) == "null"
            time.sleep(0.45)


def test_strangers_of_one_address_leave_connections_for_those_we_know(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(https_server, "STRANGERS_PER_ADDRESS_MAX", 2)
    nobody = context_for(authority, None)
    known = context_for(authority, authority.controller_files(now=NOW))
    with (
        served(authority) as port,
        connected(port, nobody) as first,
        connected(port, nobody) as second,
    ):
        assert (ask(first), ask(second)) == ("null", "null")
        with connected(port, nobody) as third:
            assert third.recv(1) == b""
        for _ in range(3):
            with connected(port, known) as tls:
                assert ask(tls) == '"controller"'
        first.close()
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), connected(port, nobody) as fourth:
                fourth.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                if fourth.recv(65536):
                    return
        pytest.fail("nobody is let in although one has gone")


def test_a_header_that_never_ends_is_refused(authority: Authority) -> None:
    with served(authority) as port, connected(port, context_for(authority, None)) as tls:
        tls.sendall(b"GET / HTTP/1.1\r\nX: " + b"a" * (https_server.HEADERS_BYTES_MAX + 1))

        assert tls.recv(65536).startswith(b"HTTP/1.1 400 ")


def test_too_many_connections_are_told_to_come_back(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(https_server, "CONNECTIONS_MAX", 2)
    context = context_for(authority, None)
    with served(authority) as port, connected(port, context), connected(port, context) as second:
        second.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")

        assert second.recv(65536).startswith(b"HTTP/1.1 503 ")


def test_stopping_finishes_what_is_being_answered(authority: Authority) -> None:
    asked = threading.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        asked.set()
        await asyncio.sleep(0.2)
        await who(scope, receive, send)

    answers: list[str] = []

    def client(port: int) -> None:
        with connected(port, context_for(authority, None)) as tls:
            answers.append(ask(tls))

    with served(authority, slow) as port:
        thread = threading.Thread(target=client, args=[port])
        thread.start()
        assert asked.wait(60)
    thread.join()

    assert answers == ["null"]


@pytest.mark.parametrize("host", ["127.0.0.1", "192.0.2.1"])
def test_a_port_that_cannot_be_had_is_explained(authority: Authority, host: str) -> None:
    files = authority.server_files(["localhost", "127.0.0.1"], now=NOW)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        with pytest.raises(ConfigurationInvalid, match="listen_port"):
            HttpsServer(who, host=host, port=port, files=files).bind()


def test_signals_stay_with_the_program_that_runs_it(authority: Authority, tmp_path: Path) -> None:
    import signal

    before = signal.getsignal(signal.SIGTERM)
    files = authority.server_files(["localhost", "127.0.0.1"], now=NOW)

    async def run() -> object:
        server = HttpsServer(who, host="127.0.0.1", port=0, files=files)
        serving = asyncio.create_task(server.serve())
        await server.wait_started()
        found = signal.getsignal(signal.SIGTERM)
        server.stop()
        await serving
        return found

    assert asyncio.run(run()) is before

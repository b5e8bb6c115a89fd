"""The front on the day that a bound is reached: one below it is served, one above it is told."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import pytest

from agent_process import until
from mailboat_agent.client.calls import KEPT_CONNECTIONS_MAX
from mailboat_agent.client.client import Client
from mailboat_agent.serving.front import connection as connections
from mailboat_agent.serving.front.options import HOPS_MAX, read_options
from mailboat_agent.serving.front.request import UNASKED_BYTES_MAX
from mailboat_agent.serving.front.routes import POST_BYTES_MAX
from mailboat_agent.serving.gateway import Gateway
from mailboat_agent.serving.protocol import REQUEST_ID_CHARS_MAX, parse_request
from mailboat_agent.serving.runtime import Runtime
from mailboat_agent.serving.tensors import RANK_MAX, TENSORS_MAX, BadTensors


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    """Nothing is served."""
    runtime = Runtime(clock=lambda: datetime(2026, 3, 1, 12, 0, tzinfo=UTC))
    with Gateway(runtime, feedback=runtime.live.feedback) as gateway:
        yield gateway
    runtime.close()


def told(sock: socket.socket) -> int:
    """The status of what is answered."""
    sock.settimeout(20)
    return int(sock.recv(4096).split()[1])


def post(path: bytes, length: int) -> bytes:
    return b"POST %s HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % (path, length)


def test_a_body_is_read_unasked_up_to_the_bound(gateway: Gateway) -> None:
    """A larger one is refused by what its head says; not a byte of it is waited for."""
    with closing(socket.create_connection(gateway.address)) as small:
        small.sendall(post(b"/v2/models/m/infer", UNASKED_BYTES_MAX) + bytes(UNASKED_BYTES_MAX))
        assert told(small) == 404
    with closing(socket.create_connection(gateway.address)) as large:
        large.sendall(post(b"/v2/models/m/infer", UNASKED_BYTES_MAX + 1))
        assert told(large) == 404


def test_what_is_no_inference_is_small(gateway: Gateway) -> None:
    with closing(socket.create_connection(gateway.address)) as small:
        small.sendall(post(b"/v1/feedback", POST_BYTES_MAX) + bytes(POST_BYTES_MAX))
        assert told(small) == 400  # read, and no JSON
    with closing(socket.create_connection(gateway.address)) as large:
        large.sendall(post(b"/v1/feedback", POST_BYTES_MAX + 1))
        assert told(large) == 413


def test_of_a_refused_body_so_much_is_thrown_away_and_then_the_line_is_cut(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "LINGER_BYTES_MAX", 1 << 20)
    with closing(socket.create_connection(gateway.address)) as client:
        client.sendall(post(b"/v2", 100 << 20))
        assert told(client) == 413
        client.settimeout(20)
        with pytest.raises(ConnectionError):
            client.sendall(bytes(64 << 20))


def test_a_connection_without_a_request_is_closed_after_a_while(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "IDLE_SECONDS_MAX", 0.1)
    with closing(socket.create_connection(gateway.address)) as client:
        client.settimeout(20)
        assert client.recv(1) == b""  # nothing was asked, so nothing is said


def asking(**changes: Any) -> bytes:
    x = {"name": "x", "datatype": "INT8", "shape": [1], "data": [1]}
    return json.dumps({"inputs": [x]} | changes).encode()


def inputs(count: int) -> list[dict[str, Any]]:
    return [{"name": f"x{n}", "datatype": "INT8", "shape": [1], "data": [1]} for n in range(count)]


@pytest.mark.parametrize(
    ("served", "refused"),
    [
        ({"id": "a" * REQUEST_ID_CHARS_MAX}, {"id": "a" * (REQUEST_ID_CHARS_MAX + 1)}),
        ({"inputs": inputs(TENSORS_MAX)}, {"inputs": inputs(TENSORS_MAX + 1)}),
        (
            {"outputs": [{"name": "y"}] * TENSORS_MAX},
            {"outputs": [{"name": "y"}] * (TENSORS_MAX + 1)},
        ),
        (
            {"inputs": [inputs(1)[0] | {"shape": [1] * RANK_MAX}]},
            {"inputs": [inputs(1)[0] | {"shape": [1] * (RANK_MAX + 1)}]},
        ),
    ],
    ids=["id", "inputs", "outputs", "dimensions"],
)
def test_a_request_holds_so_much_and_no_more(
    served: dict[str, Any], refused: dict[str, Any]
) -> None:
    parse_request(asking(**served))
    with pytest.raises(BadTensors):
        parse_request(asking(**refused))


@pytest.mark.parametrize(
    ("said", "hops"), [("0", 0), ("99", 99), ("100", HOPS_MAX), ("-1", HOPS_MAX)]
)
def test_hops_that_cannot_be_read_are_many(said: str, hops: int) -> None:
    assert read_options({"mailboat-hops": said}).hops == hops


def test_a_client_keeps_so_many_connections_and_closes_the_others(gateway: Gateway) -> None:
    at_once = KEPT_CONNECTIONS_MAX + 6
    together = threading.Barrier(at_once)
    with Client(gateway.url) as client:

        def look() -> None:
            with closing(client._caller._take(20)) as connection:
                together.wait(60)
                connection.request("GET", "/v2/health/live")
                connection.getresponse().read()
                client._caller._keep(connection)
                together.wait(60)

        threads = [threading.Thread(target=look) for _ in range(at_once)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert len(client._caller._kept) == KEPT_CONNECTIONS_MAX
    until(lambda: len(gateway._server._connections) == 0)

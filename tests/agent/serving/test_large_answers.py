"""Large answers to small requests, before clients that do not take them. No model is needed."""

import http.client
import json
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

import pytest

from agent_process import until
from mailboat_agent.serving.answering import Answered, Asked, Local, Written
from mailboat_agent.serving.front import exchange
from mailboat_agent.serving.front.exchange import WRITE_IN_PLACE_BYTES_MAX
from mailboat_agent.serving.front.room import Room
from mailboat_agent.serving.gateway import Gateway
from mailboat_agent.serving.protocol import InferenceAnswer, inference_answer
from mailboat_agent.serving.runtime import Runtime
from mailboat_agent.serving.tensors import Tensor

MIB = 1 << 20
INPUT = {"name": "x", "datatype": "UINT8", "shape": [1], "data": [1]}
BODY = json.dumps({"inputs": [INPUT], "parameters": {"binary_data_output": True}}).encode()
REQUEST = b"POST /v2/models/m/infer HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(BODY)


class Large:
    """Answers for every model with so many bytes."""

    def __init__(self) -> None:
        self.size_bytes = 2 * MIB

    def stands_in(self, *_: object) -> bool:
        return True

    async def answer(
        self,
        asked: Asked,
        _local: Callable[[Asked], Awaitable[Local[Written]]],
        write: Callable[[Answered], Awaitable[Written]],
    ) -> Written:
        y = Tensor("y", "UINT8", (self.size_bytes,), bytes(self.size_bytes))
        return await write(Answered(model=asked.model, version="1", digest="", outputs=(y,)))


@pytest.fixture
def room() -> Room:
    return Room(8 * MIB)


@pytest.fixture
def large() -> Large:
    return Large()


@pytest.fixture
def gateway(room: Room, large: Large) -> Iterator[Gateway]:
    runtime = Runtime(clock=lambda: datetime(2026, 3, 1, 12, 0, tzinfo=UTC))
    with Gateway(runtime, answering=large, room=room) as gateway:
        yield gateway
    runtime.close()


def asking(gateway: Gateway) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(20)
    sock.connect(gateway.address)
    sock.sendall(REQUEST + BODY)
    return sock


def status(sock: socket.socket) -> int:
    response = http.client.HTTPResponse(sock)
    response.begin()
    response.read()
    return response.status


def test_answers_that_nobody_takes_are_held_up_to_the_bound(gateway: Gateway, room: Room) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(asking(gateway)) for _ in range(12)]
        for each in clients:
            each.recv(1, socket.MSG_PEEK)
        held = room.held_bytes
        found = [status(each) for each in clients]

    assert held <= 8 * MIB
    assert set(found) == {200, 503}
    until(lambda: room.held_bytes == 0)


def test_one_answer_alone_may_be_of_any_size(gateway: Gateway, room: Room, large: Large) -> None:
    large.size_bytes = 12 * MIB
    with asking(gateway) as client:
        assert status(client) == 200
    until(lambda: room.held_bytes == 0)


def test_a_large_answer_in_json_is_written_beside_the_event_loop(
    gateway: Gateway, large: Large, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []

    def noted(**what: Any) -> InferenceAnswer:
        threads.append(threading.current_thread().name)
        return inference_answer(**what)

    monkeypatch.setattr(exchange, "inference_answer", noted)
    for size_bytes in (WRITE_IN_PLACE_BYTES_MAX, WRITE_IN_PLACE_BYTES_MAX + 1):
        large.size_bytes = size_bytes
        connection = http.client.HTTPConnection(*gateway.address, timeout=60)
        connection.request("POST", "/v2/models/m/infer", json.dumps({"inputs": [INPUT]}))
        (y,) = json.loads(connection.getresponse().read())["outputs"]
        connection.close()
        assert y["data"] == [0] * size_bytes

    assert [name.partition("_")[0] for name in threads] == ["serving-gateway", "gateway-parser"]

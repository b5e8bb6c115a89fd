import asyncio
import socket
from collections.abc import MutableMapping
from datetime import timedelta
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from mailboat_controller.api import problems
from mailboat_controller.api.limits import (
    BODY_BYTES_MAX,
    DRAINED_BYTES_MAX,
    STRANGERS_BODY_BYTES_MAX,
    BodyLimit,
    drain,
)
from mailboat_schemas.errors import ServerUnavailable
from running_api import RunningApi


def test_every_error_is_a_problem_with_code_and_next_step(api: RunningApi) -> None:
    for method, path in (("GET", "/nowhere"), ("DELETE", "/v1/devices"), ("GET", "/v1/devices")):
        answer = api.ask(method, path)

        assert answer.headers["content-type"] == "application/problem+json"
        assert {"type", "title", "status", "code", "detail", "next_step"} == set(answer.json)
        assert answer.json["status"] == answer.status


def test_no_page_loads_scripts_from_elsewhere(api: RunningApi) -> None:
    assert api.ask("GET", "/docs").status == 404
    assert api.ask("GET", "/redoc").status == 404
    assert api.ask("GET", "/openapi.json").status == 200


def test_a_body_over_the_bound_is_refused(api: RunningApi) -> None:
    path = "/v1/enrolment-tokens"
    answer = api.ask("POST", path, by="alice", body=b" " * (BODY_BYTES_MAX + 1))

    assert (answer.status, answer.json["code"]) == (413, "E-PAYLOAD-TOO-LARGE")
    assert api.ask("POST", path, by="alice", body=b" " * BODY_BYTES_MAX).status == 422


def test_a_stranger_may_send_less_than_somebody_we_know(api: RunningApi) -> None:
    body = b" " * (STRANGERS_BODY_BYTES_MAX + 1)

    assert api.ask("POST", "/v1/enrol", body=body).status == 413
    assert api.ask("POST", "/v1/enrol", body=body[1:]).status == 422


@pytest.mark.parametrize("path", ["/healthz", "/v1/info", "/openapi.json", "/v1/devices", "/none"])
def test_whatever_can_be_got_can_be_asked_for_without_its_body(api: RunningApi, path: str) -> None:
    got, head = (api.ask(method, path, by="alice") for method in ("GET", "HEAD"))

    assert (head.status, head.content) == (got.status, b"")
    assert head.headers["content-type"] == got.headers["content-type"]


@pytest.mark.parametrize(
    "path",
    [
        f"/v1/devices?after={1 << 63}",
        f"/v1/devices/dev-1/events?after={10**30}",
        f"/v1/audit?after={1 << 63}",
        "/v1/audit?subject=%00",
        "/v1/devices?hardware_class=%00",
        "/v1/rollouts/%00",
        "/v1/releases/vad/%00",
        "/v1/artifacts/sha256/%00",
    ],
)
def test_a_value_that_no_database_takes_is_a_bad_request(api: RunningApi, path: str) -> None:
    assert api.ask("GET", path, by="alice").status == 422


@pytest.mark.parametrize("reason", ["a\0b", "\ud800"])
def test_text_that_no_database_takes_is_a_bad_request(api: RunningApi, reason: str) -> None:
    body = {"reason": reason}

    assert api.ask("POST", "/v1/devices/dev-1/revoke", by="alice", body=body).status == 422


def test_of_a_body_that_is_refused_a_part_is_read_and_no_more() -> None:
    chunk, read = bytes(1 << 20), 0

    async def receive() -> MutableMapping[str, Any]:
        nonlocal read
        read += len(chunk)
        return {"type": "http.request", "body": chunk, "more_body": True}

    asyncio.run(drain(receive))

    assert read == DRAINED_BYTES_MAX + len(chunk)


def test_a_body_that_drips_is_given_up() -> None:
    app = FastAPI()
    app.add_middleware(BodyLimit, body_seconds_max=0.05)
    sent: list[MutableMapping[str, Any]] = []

    async def nothing_more() -> MutableMapping[str, Any]:
        await asyncio.sleep(10)
        raise AssertionError("it was given up")

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "path": "/v1/enrol", "method": "POST", "headers": []}
    asyncio.run(app(scope, nothing_more, send))

    assert sent[0]["status"] == 408
    assert (b"connection", b"close") in sent[0]["headers"]


def test_a_body_that_does_not_say_how_long_it_is_is_bounded_too(api: RunningApi) -> None:
    chunk = b"10000\r\n" + b" " * STRANGERS_BODY_BYTES_MAX + b"\r\n"
    assert STRANGERS_BODY_BYTES_MAX == 0x10000
    with (
        socket.create_connection(("127.0.0.1", api.port), timeout=5) as plain,
        api.tls(None).wrap_socket(plain, server_hostname="127.0.0.1") as tls,
    ):
        tls.sendall(
            b"POST /v1/enrol HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        tls.sendall(chunk + b"1\r\n \r\n")

        assert tls.recv(65536).startswith(b"HTTP/1.1 413 ")


@pytest.fixture
def broken() -> TestClient:
    app = FastAPI()
    problems.install(app)

    @app.get("/busy")
    def busy() -> None:
        raise ServerUnavailable("Busy.", next_step="wait.", retry_after=timedelta(seconds=1.5))

    @app.get("/bug")
    def bug() -> None:
        raise RuntimeError("the password is swordfish")

    return TestClient(app, raise_server_exceptions=False)


def test_trouble_that_passes_says_when_to_come_back(broken: TestClient) -> None:
    answer = broken.get("/busy")

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")


def test_a_bug_tells_nothing_of_our_insides(broken: TestClient) -> None:
    answer = broken.get("/bug")

    assert (answer.status_code, answer.json()["code"]) == (500, "E-INTERNAL")
    assert "swordfish" not in answer.text

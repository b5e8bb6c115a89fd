import socket
from datetime import timedelta

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from mailboat_controller.api import problems
from mailboat_controller.api.limits import BODY_BYTES_MAX
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
    answer = api.ask("POST", "/v1/enrol", body=b" " * (BODY_BYTES_MAX + 1))

    assert (answer.status, answer.json["code"]) == (413, "E-PAYLOAD-TOO-LARGE")
    assert api.ask("POST", "/v1/enrol", body=b" " * BODY_BYTES_MAX).status == 422


def test_a_body_that_does_not_say_how_long_it_is_is_bounded_too(api: RunningApi) -> None:
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    with (
        socket.create_connection(("127.0.0.1", api.port), timeout=5) as plain,
        api.tls(None).wrap_socket(plain, server_hostname="127.0.0.1") as tls,
    ):
        tls.sendall(
            b"POST /v1/enrol HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        for _ in range(BODY_BYTES_MAX // 0x10000 + 1):
            tls.sendall(chunk)

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

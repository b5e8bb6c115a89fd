import hashlib
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from mailboat_controller.client import ATTEMPTS_MAX, ApiClient
from mailboat_controller.connection_file import load_connection
from mailboat_schemas.errors import (
    ConfigurationInvalid,
    DigestMismatch,
    NotFound,
    NotPermitted,
    OperatorNeeded,
    ServerUnavailable,
)
from running_api import RunningApi, running_api
from trust_fleet import CLASS


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    with running_api(tmp_path_factory.mktemp("controller")) as api:
        yield api


@pytest.fixture
def client(api: RunningApi) -> Iterator[ApiClient]:
    with ApiClient.open(api.connection_file("alice")) as client:
        yield client


class TestArtifacts:
    def test_are_uploaded_once_with_their_progress(
        self, client: ApiClient, api: RunningApi, tmp_path: Path
    ) -> None:
        path = tmp_path / "model.onnx"
        path.write_bytes(bytes(range(256)) * 4000)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        sent: list[int] = []

        assert client.put_artifact(digest, path, sent.append) is True
        assert sum(sent) == path.stat().st_size
        assert len(sent) > 1
        assert client.put_artifact(digest, path, sent.append) is False
        assert sum(sent) == path.stat().st_size
        assert api.artifacts.path(digest).read_bytes() == path.read_bytes()

    def test_of_other_bytes_raise_what_the_server_raised(
        self, client: ApiClient, tmp_path: Path
    ) -> None:
        path = tmp_path / "model.onnx"
        path.write_bytes(b"other")

        with pytest.raises(DigestMismatch, match="sha256") as refused:
            client.put_artifact("ab" * 32, path)
        assert refused.value.next_step.startswith("upload the artifact again")


def test_pages_are_followed_to_the_end(client: ApiClient, api: RunningApi) -> None:
    token = api.kit(uses=5)["token"]
    for number in range(5):
        api.enrol(f"dev-{number}", token=token)

    rows = client.pages("/v1/devices", "enrolment_number", limit=2, hardware_class=CLASS, site=None)
    assert [row["device"] for row in rows] == [f"dev-{number}" for number in range(5)]


def test_a_role_that_is_not_there_is_not_found(client: ApiClient, api: RunningApi) -> None:
    assert client.role("targets") == api.trust.roles["targets"]
    with pytest.raises(NotFound, match="release-nothing"):
        client.role("release-nothing")


def test_a_refused_submission_is_an_answer(client: ApiClient) -> None:
    assert client.submit(b"nonsense").status == "rejected"


def test_a_submission_by_who_may_not_is_an_error(api: RunningApi) -> None:
    with (
        ApiClient.open(api.connection_file("wall")) as wall,
        pytest.raises(NotPermitted, match="dashboard:wall"),
    ):
        wall.submit(b"nonsense")


def test_a_server_with_a_certificate_of_another_ca_is_not_spoken_to(
    api: RunningApi, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with running_api(tmp_path_factory.mktemp("other")) as other:
        connection = load_connection(other.connection_file("alice"))
        foreign = connection.model_copy(update={"api_url": api.url})
        directory = other.connection_file("alice").parent
        with (
            ApiClient(foreign, directory, sleep=lambda _seconds: None) as client,
            pytest.raises(ServerUnavailable, match="certificate verify failed"),
        ):
            client.get("/v1/devices")


def test_a_key_that_cannot_be_read_is_explained(api: RunningApi, tmp_path: Path) -> None:
    connection = load_connection(api.connection_file("alice"))

    with pytest.raises(ConfigurationInvalid, match="alice"):
        ApiClient(connection, tmp_path)


@contextmanager
def scripted(api: RunningApi, *answers: tuple[int, dict[str, str], bytes]) -> Iterator[list[str]]:
    """A server that gives these answers in turn, under our server's certificate and port."""
    waiting = list(answers)
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            asked.append(self.command)
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, headers, content = waiting.pop(0)
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(content))}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_PUT = do_HEAD = do_POST = answer  # noqa: N815  named by http.server

        def log_message(self, *_args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pki = api.settings.pki_dir
    context.load_cert_chain(pki / "server.pem", pki / "server.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        asked.append(f"https://127.0.0.1:{server.server_address[1]}")
        yield asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def impatient(api: RunningApi, url: str, slept: list[float]) -> ApiClient:
    path = api.connection_file("alice")
    connection = load_connection(path).model_copy(update={"api_url": url})
    return ApiClient(connection, path.parent, sleep=slept.append)


BUSY = (503, {"Retry-After": "3"}, b"{}")


def test_a_busy_server_is_asked_again_when_it_said(api: RunningApi, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"content")
    slept: list[float] = []
    with (
        scripted(api, (404, {}, b""), BUSY, BUSY, (201, {}, b"")) as asked,
        impatient(api, asked[0], slept) as client,
    ):
        assert client.put_artifact("ab" * 32, path) is True

    assert asked[1:] == ["HEAD", "PUT", "PUT", "PUT"]
    assert slept == [3.0, 3.0]


def test_a_server_that_stays_busy_is_given_up(api: RunningApi) -> None:
    slept: list[float] = []
    with (
        scripted(api, *[(503, {"Retry-After": "9999"}, b"{}")] * ATTEMPTS_MAX) as asked,
        impatient(api, asked[0], slept) as client,
        pytest.raises(ServerUnavailable),
    ):
        client.get("/v1/devices")

    assert slept == [10.0] * (ATTEMPTS_MAX - 1)


def test_an_answer_that_is_no_problem_of_ours_is_an_error_all_the_same(api: RunningApi) -> None:
    slept: list[float] = []
    with (
        scripted(api, (502, {}, b"<html>"), (403, {}, b"[]")) as asked,
        impatient(api, asked[0], slept) as client,
    ):
        with pytest.raises(OperatorNeeded, match="502"):
            client.get("/v1/devices")
        with pytest.raises(NotPermitted, match="403"):
            client.get("/v1/devices")

    assert slept == []


def test_a_controller_that_is_not_there_is_tried_a_few_times(api: RunningApi) -> None:
    slept: list[float] = []
    with (
        impatient(api, "https://127.0.0.1:1", slept) as client,
        pytest.raises(ServerUnavailable, match="cannot be reached"),
    ):
        client.get("/v1/devices")

    assert slept == [1.0, 2.0, 4.0]

import hashlib
import shutil
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from mailboat_controller import ci_client
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
            asked.append(" ".join(filter(None, (self.command, self.headers["Idempotency-Key"]))))
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            status, headers, content = waiting.pop(0)
            if status == LOST[0]:
                return  # and the connection is closed
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


LOST = (0, {}, b"")
BUSY = (503, {"Retry-After": "3"}, b"{}")
TOO_OFTEN = (429, {"Retry-After": "2", "Mailboat-Error-Code": "E-RATE-LIMITED"}, b"{}")


def test_a_server_that_says_too_often_is_asked_again_when_it_said(api: RunningApi) -> None:
    slept: list[float] = []
    with (
        scripted(api, TOO_OFTEN, (200, {}, b"[]")) as asked,
        impatient(api, asked[0], slept) as client,
    ):
        assert client.get("/v1/devices") == []
    assert slept == [2.0]

    with (
        scripted(api, *[TOO_OFTEN] * ATTEMPTS_MAX) as asked,
        impatient(api, asked[0], slept) as client,
        pytest.raises(ServerUnavailable) as refused,
    ):
        client.get("/v1/devices")
    assert "E-RATE-LIMITED" in str(refused.value)


def test_a_change_whose_answer_is_lost_is_sent_again_under_its_key(api: RunningApi) -> None:
    slept: list[float] = []
    with (
        scripted(api, LOST, BUSY, (200, {}, b"{}"), (200, {}, b"{}")) as asked,
        impatient(api, asked[0], slept) as client,
    ):
        assert client.post("/v1/devices/dev-1/hold", {"reason": "storm"}) == {}
        client.post("/v1/devices/dev-1/hold", {"reason": "storm"})

        _, first, second, third, other = asked
    assert first == second == third != other
    assert len(first) > len("POST ")


def test_a_submission_whose_answer_is_lost_is_not_sent_again_by_itself(api: RunningApi) -> None:
    with (
        scripted(api, LOST) as asked,
        impatient(api, asked[0], []) as client,
        pytest.raises(ServerUnavailable),
    ):
        client.submit(b"x")


@pytest.mark.parametrize("link", ["https://elsewhere.example/v1/x", "//elsewhere.example/v1/x"])
def test_a_page_is_never_looked_for_on_another_controller(api: RunningApi, link: str) -> None:
    headers = {"Link": f'<{link}>; rel="next"'}
    with scripted(api, (200, headers, b"[1]")) as asked, impatient(api, asked[0], []) as client:
        assert client.get("/v1/sites") == [1]
    assert asked[1:] == ["GET"]


def test_an_answer_without_a_body_says_by_its_header_what_is_wrong(api: RunningApi) -> None:
    with (
        ApiClient.open(api.connection_file("vera")) as client,
        pytest.raises(NotPermitted, match="E-NOT-PERMITTED"),
    ):
        client.has_artifact("ab" * 32)


class TestTheTokenFile:
    @pytest.fixture
    def place(self, api: RunningApi, tmp_path: Path) -> Path:
        """A copy of Vera's connection, to do harm to."""
        copy = tmp_path / "vera"
        shutil.copytree(api.connection_file("vera").parent, copy)
        return copy / "connection.toml"

    def test_is_all_that_a_person_needs(self, place: Path) -> None:
        with ApiClient.open(place) as client:
            assert client.get("/v1/access-tokens/self")["name"] == "vera"

    def test_may_be_read_by_a_group_and_not_by_everybody(self, place: Path) -> None:
        place.with_name("token").chmod(0o640)
        ApiClient.open(place).__exit__(None, None, None)
        for mode in (0o604, 0o644, 0o602):
            place.with_name("token").chmod(mode)
            with pytest.raises(ConfigurationInvalid, match="everybody") as refused:
                ApiClient.open(place)
            assert "chmod 600" in refused.value.next_step

    @pytest.mark.parametrize(
        "content", [b"", b"swordfish", b"mbt_swordfish\n", b"\xff" * 85, b"swordfish" * 10_000]
    )
    def test_that_holds_no_token_is_not_repeated(self, place: Path, content: bytes) -> None:
        place.with_name("token").write_bytes(content)

        with pytest.raises(ConfigurationInvalid, match="token") as refused:
            ApiClient.open(place)
        assert "swordfish" not in str(refused.value)

    def test_that_is_missing_is_explained(self, place: Path) -> None:
        place.with_name("token").unlink()

        with pytest.raises(ConfigurationInvalid, match="No such file"):
            ApiClient.open(place)

    def test_does_not_open_the_broker(self, place: Path) -> None:
        with pytest.raises(ConfigurationInvalid, match="no certificate") as refused:
            ci_client.submit(b"x", load_connection(place), place.parent, timeout_seconds=1)
        assert "--http" in refused.value.next_step

    def test_is_never_sent_without_encryption(self, place: Path) -> None:
        connection = load_connection(place).model_copy(update={"api_url": "http://127.0.0.1:1"})

        with pytest.raises(ConfigurationInvalid, match="unencrypted"):
            ApiClient(connection, place.parent)

    def test_is_not_followed_to_another_address(self, api: RunningApi) -> None:
        elsewhere = (302, {"Location": "https://127.0.0.1:1/"}, b"")
        slept: list[float] = []
        with (
            scripted(api, elsewhere) as asked,
            impatient(api, asked[0], slept) as client,
            pytest.raises(OperatorNeeded, match="302"),
        ):
            client.get("/v1/devices")
        assert slept == []

    def test_does_not_show_when_the_client_is_printed(self, api: RunningApi) -> None:
        secret = api.tokens["vera"].rpartition("_")[2]
        with ApiClient.open(api.connection_file("vera")) as client:
            printed = f"{client.__dict__} {client._client.headers!r}"

        assert secret not in printed


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

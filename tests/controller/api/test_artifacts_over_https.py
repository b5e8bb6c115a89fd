import hashlib
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate

import pytest

from mailboat_controller.api.context import ARTIFACT_THREADS
from mailboat_controller.artifacts.directory import DirectoryStore
from mailboat_controller.store import audit
from mailboat_schemas.documents.release import ARTIFACT_BYTES_MAX
from running_api import Answer, RunningApi

CONTENT = bytes(range(256)) * 5000  # 1.28 MB: more than one write
DIGEST = hashlib.sha256(CONTENT).hexdigest()
PATH = f"/v1/artifacts/sha256/{DIGEST}"


@pytest.fixture(autouse=True)
def uploaded(api: RunningApi) -> None:
    assert api.ask("PUT", PATH, by="build", body=CONTENT).status in {200, 201}


def get(api: RunningApi, **headers: str) -> Answer:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return api.ask("GET", PATH, by="build", headers=names)


class TestDownload:
    def test_gives_the_bytes_to_be_kept_for_ever(self, api: RunningApi) -> None:
        answer = get(api)

        assert (answer.status, answer.content) == (200, CONTENT)
        assert answer.headers["etag"] == f'"{DIGEST}"'
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert answer.headers["accept-ranges"] == "bytes"
        assert answer.headers["last-modified"] == "Thu, 01 Jan 1970 00:00:00 GMT"

    def test_goes_on_where_it_stopped(self, api: RunningApi) -> None:
        answer = get(api, Range="bytes=1000000-", If_Range=f'"{DIGEST}"')

        assert (answer.status, answer.content) == (206, CONTENT[1_000_000:])
        assert answer.headers["content-range"] == f"bytes 1000000-1279999/{len(CONTENT)}"

    @pytest.mark.parametrize(
        "validator",
        ['"other"', formatdate(usegmt=True), f'W/"{DIGEST}"'],
        ids=["another file", "a date", "a weak validator"],
    )
    def test_begins_anew_when_the_caller_holds_a_part_of_something_else(
        self, api: RunningApi, validator: str
    ) -> None:
        answer = get(api, Range="bytes=1000000-", If_Range=validator)

        assert (answer.status, answer.content) == (200, CONTENT)

    def test_past_the_end_is_not_satisfiable(self, api: RunningApi) -> None:
        assert get(api, Range=f"bytes={len(CONTENT)}-").status == 416

    def test_is_not_sent_to_who_has_it(self, api: RunningApi) -> None:
        answer = get(api, If_None_Match=f'"x", "{DIGEST}"')

        assert (answer.status, answer.content) == (304, b"")

    def test_of_what_is_not_here_says_so_as_a_problem(self, api: RunningApi) -> None:
        answer = api.ask("GET", f"/v1/artifacts/sha256/{'ab' * 32}", by="build")

        assert (answer.status, answer.json["code"]) == (404, "E-ARTIFACT-MISSING")
        assert answer.headers["content-type"] == "application/problem+json"

    def test_can_be_asked_for_without_the_bytes(self, api: RunningApi) -> None:
        answer = api.ask("HEAD", PATH, by="build")

        assert (answer.status, answer.content) == (200, b"")
        assert answer.headers["content-length"] == str(len(CONTENT))

    @pytest.mark.parametrize("digest", ["..%2F..%2Fetc%2Fpasswd", "AB" * 32, "ab"])
    def test_of_a_name_that_is_no_digest_is_refused(self, api: RunningApi, digest: str) -> None:
        assert api.ask("GET", f"/v1/artifacts/sha256/{digest}", by="build").status in {404, 422}


class TestUpload:
    def put(self, api: RunningApi, content: bytes, digest: str, **headers: str) -> Answer:
        path = f"/v1/artifacts/sha256/{digest}"
        return api.ask("PUT", path, by="build", body=content, headers=headers)

    def test_creates_once_and_then_finds_it_there(self, api: RunningApi) -> None:
        content = b"new model"
        digest = hashlib.sha256(content).hexdigest()

        assert self.put(api, content, digest).status == 201
        assert self.put(api, content, digest).status == 200
        assert api.artifacts.path(digest).read_bytes() == content
        with api.store.read() as tx:
            (entry,) = audit.page(tx, subject=digest)
        assert (entry.action, entry.actor) == ("artifact.put", "ci:build")
        assert entry.details == {"length": len(content)}

    def test_of_nothing_at_all_is_an_artifact_too(self, api: RunningApi) -> None:
        assert self.put(api, b"", hashlib.sha256().hexdigest()).status in {200, 201}

    def test_of_other_bytes_than_the_name_says_is_refused(self, api: RunningApi) -> None:
        answer = self.put(api, b"other", "ab" * 32)

        assert (answer.status, answer.json["code"]) == (422, "E-DIGEST")
        assert api.ask("HEAD", f"/v1/artifacts/sha256/{'ab' * 32}", by="build").status == 404

    def test_of_other_bytes_under_a_name_that_is_taken_is_refused_and_harms_nothing(
        self, api: RunningApi
    ) -> None:
        answer = self.put(api, b"x" * len(CONTENT), DIGEST)

        assert (answer.status, answer.json["code"]) == (422, "E-DIGEST")
        assert get(api).content == CONTENT

    def test_needs_its_length(self, api: RunningApi) -> None:
        answer = api.ask("PUT", PATH, by="build", body=iter([b"chunk"]))

        assert (answer.status, answer.json["code"]) == (411, "E-LENGTH-REQUIRED")

    def test_over_the_bound_is_refused_before_the_body(self, api: RunningApi) -> None:
        request = (
            f"PUT /v1/artifacts/sha256/{'ab' * 32} HTTP/1.1\r\nHost: x\r\n"
            f"Content-Length: {ARTIFACT_BYTES_MAX + 1}\r\nExpect: 100-continue\r\n\r\n"
        )
        with (
            socket.create_connection(("127.0.0.1", api.port), timeout=5) as plain,
            api.tls("build").wrap_socket(plain, server_hostname="127.0.0.1") as tls,
        ):
            tls.sendall(request.encode())

            assert tls.recv(65536).startswith(b"HTTP/1.1 413 ")

    def test_that_breaks_off_leaves_nothing(self, api: RunningApi) -> None:
        digest = "cd" * 32
        request = (
            f"PUT /v1/artifacts/sha256/{digest} HTTP/1.1\r\nHost: x\r\n"
            "Content-Length: 1000\r\n\r\nhalf"
        )
        with (
            socket.create_connection(("127.0.0.1", api.port), timeout=5) as plain,
            api.tls("build").wrap_socket(plain, server_hostname="127.0.0.1") as tls,
        ):
            tls.sendall(request.encode())
        # The next answer on another connection comes after the server noticed.
        for _ in range(100):
            if not list((api.settings.artifacts_dir / "incoming").iterdir()):
                break
            api.ask("GET", "/healthz")

        assert not api.artifacts.has(digest)
        assert list((api.settings.artifacts_dir / "incoming").iterdir()) == []

    def test_whoever_waits_for_continue_need_not_send_what_is_here(self, api: RunningApi) -> None:
        request = (
            f"PUT {PATH} HTTP/1.1\r\nHost: x\r\n"
            f"Content-Length: {len(CONTENT)}\r\nExpect: 100-continue\r\n\r\n"
        )
        with (
            socket.create_connection(("127.0.0.1", api.port), timeout=5) as plain,
            api.tls("build").wrap_socket(plain, server_hostname="127.0.0.1") as tls,
        ):
            tls.sendall(request.encode())

            assert tls.recv(65536).startswith(b"HTTP/1.1 200 ")


@pytest.mark.slow
def test_a_store_that_does_not_answer_keeps_nothing_else_waiting(
    api: RunningApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain handlers share 40 threads: a withdrawal must not wait behind 40 downloads."""
    answers, asked, length = threading.Event(), threading.Semaphore(0), DirectoryStore.length

    def silent(store: DirectoryStore, digest: str) -> int | None:
        asked.release()
        assert answers.wait(60)
        return length(store, digest)

    monkeypatch.setattr(DirectoryStore, "length", silent)
    with ThreadPoolExecutor(45) as devices:
        downloads = [devices.submit(get, api) for _ in range(45)]
        try:
            for _ in range(ARTIFACT_THREADS):
                assert asked.acquire(timeout=30)
            time.sleep(0.5)  # the others are on their way

            assert api.ask("GET", "/v1/releases", by="alice").status == 200
        finally:
            answers.set()
        assert {each.result().status for each in downloads} == {200}

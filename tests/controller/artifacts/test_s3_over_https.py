"""The API in front of a bucket: through the controller, or by an address of the bucket's own."""

import hashlib
import http.client
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
import structlog

from running_api import Answer, RunningApi, running_api
from s3_server import Door, S3Server, refusal

pytestmark = pytest.mark.slow  # an S3 takes seconds to import

CONTENT = bytes(range(256)) * 10_000  # 2.5 MB: more than one range of the bucket
DIGEST = hashlib.sha256(CONTENT).hexdigest()
PATH = f"/v1/artifacts/sha256/{DIGEST}"
ACCEPT = {"Mailboat-Accept-Redirect": "1"}


@pytest.fixture(scope="module")
def door(s3: S3Server) -> Iterator[Door]:
    with Door(s3.address) as door:
        yield door


@pytest.fixture(scope="module")
def api(s3: S3Server, door: Door, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    settings = s3.settings(endpoint=door.address, request_seconds=1)
    with running_api(tmp_path_factory.mktemp("controller"), artifacts=settings) as api:
        assert api.ask("PUT", PATH, by="build", body=CONTENT).status == 201
        yield api


@pytest.fixture(autouse=True)
def _open_door(door: Door) -> Iterator[None]:
    yield
    door.decide = lambda _request: None


def get(api: RunningApi, **headers: str) -> Answer:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return api.ask("GET", PATH, by="build", headers=names)


def fetch(address: str, **headers: str) -> tuple[int, bytes]:
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(parts.netloc, timeout=60)
    connection.request("GET", f"{parts.path}?{parts.query}", headers=headers)
    response = connection.getresponse()
    try:
        return response.status, response.read()
    finally:
        connection.close()


class TestThroughTheController:
    def test_the_bytes_come_whole_and_in_parts(self, api: RunningApi) -> None:
        whole = get(api)
        assert (whole.status, whole.content) == (200, CONTENT)
        assert whole.headers["etag"] == f'"{DIGEST}"'

        part = get(api, Range="bytes=2000000-", If_Range=f'"{DIGEST}"')
        assert (part.status, part.content) == (206, CONTENT[2_000_000:])
        assert get(api, Range="bytes=2000000-", If_Range='"other"').status == 200
        assert get(api, Range=f"bytes={len(CONTENT)}-").status == 416

    def test_wrong_bytes_are_refused_and_never_seen(self, api: RunningApi, s3: S3Server) -> None:
        answer = api.ask(
            "PUT", f"/v1/artifacts/sha256/{'ab' * 32}", by="build", body=b"x" * (9 << 20)
        )

        assert (answer.status, answer.json["code"]) == (422, "E-DIGEST")
        bucket = api.settings.artifacts.bucket
        assert s3.keys(bucket) == [f"fleet/a/sha256/{DIGEST}"]
        assert s3.unfinished(bucket) == []

    def test_a_busy_bucket_is_a_503_with_the_time_to_come_back(
        self, api: RunningApi, door: Door
    ) -> None:
        door.decide = lambda _request: (503, refusal("SlowDown"))

        answer = get(api)

        assert (answer.status, answer.json["code"]) == (503, "E-OBJECT-STORE-UNAVAILABLE")
        assert answer.headers["retry-after"] == "15"

    def test_a_bucket_that_refuses_us_is_a_503_too_and_no_verdict_on_the_release(
        self, api: RunningApi, door: Door
    ) -> None:
        door.decide = lambda _request: (403, refusal("AccessDenied"))

        answer = get(api)

        assert (answer.status, answer.json["code"]) == (503, "E-OBJECT-STORE-REFUSED")

    def test_a_bucket_that_fails_after_the_look_is_a_proper_answer_still(
        self, api: RunningApi, door: Door
    ) -> None:
        door.decide = lambda request: (
            (503, refusal("SlowDown")) if request.method == "GET" else None
        )

        assert get(api).status == 503


class TestRedirect:
    def test_leads_to_the_bytes_for_whoever_says_they_can_take_it(self, api: RunningApi) -> None:
        answer = get(api, **ACCEPT)

        assert (answer.status, answer.content) == (307, b"")
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["vary"] == "Mailboat-Accept-Redirect"
        assert "X-Amz-Expires=900" in answer.headers["location"]
        assert fetch(answer.headers["location"]) == (200, CONTENT)
        assert fetch(answer.headers["location"], Range="bytes=9-") == (206, CONTENT[9:])

    @pytest.mark.parametrize("value", ["0", "", "true", "1, 1"])
    def test_is_for_nobody_else(self, api: RunningApi, value: str) -> None:
        assert get(api, Mailboat_Accept_Redirect=value).status == 200

    def test_is_never_given_to_whoever_may_not_have_the_bytes(self, api: RunningApi) -> None:
        assert api.ask("GET", PATH, headers=ACCEPT).status == 401
        assert api.ask("GET", PATH, by="vera", headers=ACCEPT).status == 403
        other = api.ask("POST", "/v1/artifacts/tokens", by="alice", body={"digest": DIGEST})
        token = other.json["token"]
        headers = {**ACCEPT, "Authorization": f"Bearer {token}"}
        assert api.ask("GET", PATH, headers=headers).status == 307
        wrong = f"/v1/artifacts/sha256/{'ab' * 32}"
        assert api.ask("GET", wrong, headers=headers).status == 403

    def test_of_what_is_not_here_is_none(self, api: RunningApi) -> None:
        path = f"/v1/artifacts/sha256/{'ab' * 32}"
        answer = api.ask("GET", path, by="build", headers=ACCEPT)

        assert (answer.status, answer.json["code"]) == (404, "E-ARTIFACT-MISSING")

    def test_is_noted_without_its_address(
        self, api: RunningApi, capfd: pytest.CaptureFixture[str]
    ) -> None:
        with structlog.testing.capture_logs() as entries:
            location = get(api, **ACCEPT).headers["location"]

        (entry,) = [each for each in entries if each["event"] == "artifact redirected"]
        assert (entry["digest"], entry["holder"]) == (DIGEST, "ci:build")
        said = capfd.readouterr()
        assert "X-Amz" not in f"{entries}{said.out}{said.err}"
        assert "X-Amz-Signature" in location


def test_nobody_is_sent_away_when_the_settings_say_so(
    s3: S3Server, tmp_path_factory: pytest.TempPathFactory
) -> None:
    settings = s3.settings(presigned_seconds=0)
    with running_api(tmp_path_factory.mktemp("controller"), artifacts=settings) as api:
        assert api.ask("PUT", PATH, by="build", body=CONTENT).status == 201

        assert get(api, **ACCEPT).status == 200

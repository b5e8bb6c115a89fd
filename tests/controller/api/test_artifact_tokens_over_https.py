"""A token for one artifact: what it opens, and everything it does not."""

import hashlib
from datetime import timedelta
from typing import Any

import pytest
import structlog

from mailboat_controller import data_directory
from mailboat_controller.access.people import Role
from mailboat_schemas.enrolment import Kind
from running_api import Answer, RunningApi

CONTENT = b"a model" * 1000
DIGEST = hashlib.sha256(CONTENT).hexdigest()
OTHER = hashlib.sha256(b"another").hexdigest()


@pytest.fixture(scope="module", autouse=True)
def stored(api: RunningApi) -> None:
    for digest, content in ((DIGEST, CONTENT), (OTHER, b"another")):
        path = f"/v1/artifacts/sha256/{digest}"
        assert api.ask("PUT", path, by="build", body=content).status == 201
    assert api.enrol("cam-1").status == 201


def order(api: RunningApi, by: str, digest: str = DIGEST, **more: Any) -> Answer:
    return api.ask("POST", "/v1/artifacts/tokens", by=by, body={"digest": digest, **more})


def fetch(api: RunningApi, token: str, digest: str = DIGEST, **more: Any) -> Answer:
    headers = {"Authorization": f"Bearer {token}", **more.pop("headers", {})}
    return api.ask("GET", f"/v1/artifacts/sha256/{digest}", headers=headers, **more)


def code(answer: Answer) -> tuple[int, str]:
    return answer.status, answer.json["code"]


@pytest.mark.parametrize("by", ["alice", "paul", "build", "cam-1"])
def test_it_opens_the_artifact_it_was_made_for(api: RunningApi, by: str) -> None:
    ordered = order(api, by)
    assert (ordered.status, ordered.json["path"]) == (201, f"/v1/artifacts/sha256/{DIGEST}")
    token = ordered.json["token"]

    assert fetch(api, token).content == CONTENT
    part = fetch(api, token, headers={"Range": "bytes=10-19"})
    assert (part.status, part.content) == (206, CONTENT[10:20])


def test_it_opens_no_other_artifact(api: RunningApi) -> None:
    answer = fetch(api, order(api, "cam-1").json["token"], OTHER)

    assert code(answer) == (403, "E-ARTIFACT-TOKEN-OTHER")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/devices"),
        ("GET", "/v1/trust/root"),
        ("POST", "/v1/artifacts/tokens"),
        ("PUT", f"/v1/artifacts/sha256/{DIGEST}"),
        ("POST", "/v1/access-tokens/self/renew"),
    ],
)
def test_it_opens_nothing_else(api: RunningApi, method: str, path: str) -> None:
    headers = {"Authorization": f"Bearer {order(api, 'alice').json['token']}"}

    answer = api.ask(method, path, headers=headers)

    assert code(answer) == (403, "E-ARTIFACT-TOKEN-OTHER")


def test_it_ends_after_a_quarter_of_an_hour_at_most(api: RunningApi) -> None:
    token = order(api, "cam-1").json["token"]
    short = order(api, "cam-1", seconds=5).json["token"]
    assert order(api, "cam-1", seconds=901).status == 422

    try:
        api.clock_ahead = timedelta(seconds=6)
        assert code(fetch(api, short)) == (401, "E-ARTIFACT-TOKEN-EXPIRED")
        assert fetch(api, token).status == 200
        api.clock_ahead = timedelta(minutes=15, seconds=1)
        assert code(fetch(api, token)) == (401, "E-ARTIFACT-TOKEN-EXPIRED")
    finally:
        api.clock_ahead = timedelta()


def test_it_ends_with_its_holders_right_to_ask(api: RunningApi) -> None:
    api.enrol("stolen-1")
    api.issue(Kind.CI, "old-build")
    api.admit(Role.OPERATOR, "otto")
    tokens = {by: order(api, by).json["token"] for by in ("stolen-1", "old-build", "otto")}
    assert {fetch(api, token).status for token in tokens.values()} == {200}

    api.ask("POST", "/v1/devices/stolen-1/revoke", by="alice", body={"reason": "stolen"})
    api.ask("POST", "/v1/access-tokens/otto/revoke", by="alice", body={"reason": "left"})
    words = {"reason": "replaced", "actor": "local:test", "now": api.now()}
    data_directory.revoke_credential(api.settings, Kind.CI, "old-build", **words)

    for token in tokens.values():
        assert code(fetch(api, token)) == (403, "E-REVOKED")


def test_it_is_not_for_the_holder_of_another_certificate(api: RunningApi) -> None:
    token = order(api, "cam-1").json["token"]

    assert fetch(api, token, by="cam-1").status == 200
    assert code(fetch(api, token, by="build")) == (403, "E-ARTIFACT-TOKEN-OTHER")


def test_a_forged_one_is_refused(api: RunningApi) -> None:
    token = order(api, "cam-1").json["token"]

    assert code(fetch(api, token[:-1] + "x")) == (401, "E-ARTIFACT-TOKEN-INVALID")
    assert code(fetch(api, "mba_x_y")) == (401, "E-ARTIFACT-TOKEN-INVALID")


def test_there_is_none_for_what_is_not_here(api: RunningApi) -> None:
    assert code(order(api, "cam-1", "ab" * 32)) == (404, "E-ARTIFACT-MISSING")
    assert order(api, "cam-1", "../x").status == 422


def test_a_large_order_is_refused_like_every_large_body(api: RunningApi) -> None:
    body = b" " * (2 << 20)

    assert api.ask("POST", "/v1/artifacts/tokens", by="build", body=body).status == 413


def test_who_could_have_the_bytes_stays_known(api: RunningApi) -> None:
    with structlog.testing.capture_logs() as logs:
        token = order(api, "cam-1").json["token"]
        fetch(api, token)

    (line,) = [line for line in logs if line["event"] == "artifact fetched by token"]
    assert (line["holder"], line["digest"]) == ("device:cam-1", DIGEST)
    assert token not in str(logs)
    entries = api.ask("GET", f"/v1/audit?subject={DIGEST}&limit=500", by="alice").json
    assert entries[-1]["action"] == "artifact_token.create"
    assert entries[-1]["actor"] == "device:cam-1"

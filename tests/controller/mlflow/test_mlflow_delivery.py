"""MLflow's webhooks, genuine and not. Headers and body are those of MLflow 3.17.2."""

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mailboat_controller.mlflow import delivery
from mailboat_controller.mlflow.delivery import DeliveryRefused, read_delivery
from mailboat_controller.mlflow.settings import MlflowSettings
from mailboat_controller.store import mlflow_notices
from mailboat_controller.store.engine import Store
from mailboat_schemas.errors import MalformedPayload
from running_api import Answer, RunningApi, running_api

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
SECRET = "a secret that both sides know"
ID = "1f6f0b8e-5d6b-4f0e-9d0d-0a8a2c1b7f11"


def body(name: str = "cups", alias: str = "champion", entity: str = "model_version_alias") -> bytes:
    data = {"name": name, "alias": alias, "version": "1"}
    stamp = "2026-11-22T12:00:00+00:00"
    said = {"entity": entity, "action": "created", "timestamp": stamp, "data": data}
    return json.dumps(said).encode()


def signed(
    content: bytes, *, delivery_id: str = ID, secret: str = SECRET, at: datetime = NOON
) -> dict[str, str]:
    stamp = str(int(at.timestamp()))
    digest = hmac.new(secret.encode(), f"{delivery_id}.{stamp}.".encode() + content, hashlib.sha256)
    return {
        "x-mlflow-signature": f"v1,{base64.b64encode(digest.digest()).decode()}",
        "x-mlflow-delivery-id": delivery_id,
        "x-mlflow-timestamp": stamp,
    }


def test_what_mlflow_signs_is_read() -> None:
    found = read_delivery(signed(body()), body(), [SECRET], NOON)

    assert (found.id, found.action, found.key) == (ID, "created", "cups@champion")


def test_the_secret_before_the_newest_is_good_as_long_as_it_stands_in_the_file() -> None:
    read_delivery(signed(body()), body(), ["the newest", SECRET], NOON)

    with pytest.raises(DeliveryRefused):
        read_delivery(signed(body()), body(), ["the newest"], NOON)


@pytest.mark.parametrize(
    "changed",
    [
        {"x-mlflow-signature": ""},
        {"x-mlflow-signature": "v1,"},
        {"x-mlflow-signature": signed(body("cups2"))["x-mlflow-signature"]},
        {"x-mlflow-signature": signed(body(), secret="another")["x-mlflow-signature"]},
        {"x-mlflow-signature": signed(body())["x-mlflow-signature"].removeprefix("v1,")},
        {"x-mlflow-signature": "v1,\xe9\xe9"},
        {"x-mlflow-delivery-id": "another"},
        {"x-mlflow-timestamp": str(int(NOON.timestamp()) + 1)},
        {"x-mlflow-timestamp": "noon"},
    ],
)
def test_whatever_is_not_what_was_signed_is_refused(changed: Mapping[str, str]) -> None:
    with pytest.raises(DeliveryRefused, match="not signed"):
        read_delivery({**signed(body()), **changed}, body(), [SECRET], NOON)


@pytest.mark.parametrize("seconds", [-301, 301])
def test_one_signed_at_another_time_is_refused(seconds: int) -> None:
    at = NOON + timedelta(seconds=seconds)

    with pytest.raises(DeliveryRefused, match="300 s from now"):
        read_delivery(signed(body(), at=at), body(), [SECRET], NOON)
    read_delivery(signed(body(), at=at), body(), [SECRET], at)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"entity": 1}', b"\xff", b"[" * 5000])
def test_what_is_signed_and_not_mlflows_is_refused_all_the_same(content: bytes) -> None:
    with pytest.raises(MalformedPayload):
        read_delivery(signed(content), content, [SECRET], NOON)


def test_news_of_anything_but_an_alias_names_none() -> None:
    content = body(entity="model_version")

    assert read_delivery(signed(content), content, [SECRET], NOON).alias == ""


# --- at the controller ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    directory = tmp_path_factory.mktemp("controller")
    shared = directory / "mlflow.secret"
    shared.touch(mode=0o600)
    shared.write_text(f"{SECRET}\n")
    settings = MlflowSettings(webhook_secret_file=shared, watch=("cups@champion", "cups@candidate"))
    with running_api(directory, mlflow=settings) as api:
        yield api


def send(api: RunningApi, content: bytes, *, delivery_id: str, **signing: str) -> Answer:
    headers = signed(content, delivery_id=delivery_id, at=datetime.now(UTC), **signing)
    headers["Content-Type"] = "application/json"
    return api.ask("POST", "/v1/mlflow/webhook", body=content, headers=headers)


def test_a_delivery_is_kept_once_and_told_to_whoever_follows(api: RunningApi) -> None:
    first = send(api, body(), delivery_id="first")
    again = send(api, body(), delivery_id="first")
    other = send(api, body(alias="candidate"), delivery_id="second")

    assert (first.status, first.json) == (200, {"result": "taken"})
    assert (again.status, again.json) == (200, {"result": "repeated"})
    assert other.json == {"result": "taken"}
    told = api.ask("GET", "/v1/mlflow/notices", by="build").json
    assert [row["alias"] for row in told["notices"]] == ["champion", "candidate"]
    later = api.ask("GET", f"/v1/mlflow/notices?after={told['newest']}", by="build").json
    assert (later["notices"], later["newest"]) == ([], told["newest"])
    # Numbers begin again when the controller's database was put back from a backup.
    ahead = api.ask("GET", f"/v1/mlflow/notices?after={told['newest'] + 9}", by="build").json
    assert ahead["newest"] == told["newest"]


def test_an_alias_that_nobody_watches_is_ignored_and_counted(api: RunningApi) -> None:
    before = api.ask("GET", "/v1/mlflow/notices", by="alice").json

    names = ("other", "x" * 500, "\x1b[2J")

    answers = [send(api, body(name), delivery_id=f"odd-{n}") for n, name in enumerate(names)]

    after = api.ask("GET", "/v1/mlflow/notices", by="alice").json
    assert [answer.json["result"] for answer in answers] == ["ignored"] * 3
    assert after["counts"]["ignored"] == before["counts"]["ignored"] + 3
    assert after["notices"] == before["notices"]


def test_a_forged_one_is_refused_and_leaves_nothing(api: RunningApi) -> None:
    before = api.ask("GET", "/v1/mlflow/notices", by="alice").json

    refused = send(api, body(), delivery_id="forged", secret="a guess")

    assert (refused.status, refused.json["code"]) == (403, "E-MLFLOW-WEBHOOK")
    assert api.ask("GET", "/v1/mlflow/notices", by="alice").json == before


def test_a_body_over_the_bound_is_refused_before_it_is_read(api: RunningApi) -> None:
    answer = send(api, b" " * (delivery.BODY_BYTES_MAX + 1), delivery_id="large")

    assert answer.status == 413


@pytest.mark.slow
def test_without_a_secret_no_webhook_is_taken(tmp_path: Path) -> None:
    with running_api(tmp_path) as api:
        answer = send(api, body(), delivery_id="first")

    assert (answer.status, answer.json["code"]) == (404, "E-NOT-FOUND")


def test_the_oldest_notices_go_first_and_no_number_comes_twice(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_notices, "NOTICES_MAX", 3)
    store = Store(database_url)
    with store.transaction() as tx:
        for n in range(5):
            mlflow_notices.put(tx, delivery=str(n), registered="cups", alias=f"a{n}", at=NOON)
        kept = mlflow_notices.after(tx, 0)
    store.close()

    assert [notice.alias for notice in kept] == ["a2", "a3", "a4"]
    assert len({notice.number for notice in kept}) == 3

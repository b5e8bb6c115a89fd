"""Two people change one document: the slower of them is told."""

from typing import Any

import pytest

from running_api import HARDWARE_CLASS, RunningApi

CLASS = "/v1/hardware-classes/shared"
SITE = "/v1/sites/harbour"


def document(memory: str) -> dict[str, Any]:
    spec = HARDWARE_CLASS["spec"] | {"memory_budget": memory}
    return HARDWARE_CLASS | {"metadata": {"name": "shared"}, "spec": spec}


@pytest.fixture(scope="module", autouse=True)
def documents(api: RunningApi) -> None:
    assert api.ask("PUT", CLASS, by="alice", body=document("128MiB")).status == 200
    site = {"name": "harbour", "broker_host": "broker.example"}
    assert api.ask("POST", "/v1/sites", by="alice", body=site).status == 201


def test_a_class_is_changed_by_whoever_has_seen_it_as_it_is(api: RunningApi) -> None:
    seen = {"If-Match": api.ask("GET", CLASS, by="vera").headers["etag"]}

    first = api.ask("PUT", CLASS, by="alice", body=document("256MiB"), headers=seen)
    second = api.ask("PUT", CLASS, by="alice", body=document("512MiB"), headers=seen)

    assert (first.status, second.status) == (200, 412)
    assert second.json["code"] == "E-PRECONDITION"
    assert api.ask("GET", CLASS, by="vera").json["spec"]["memory_budget"] == 256 << 20


def test_a_site_likewise(api: RunningApi) -> None:
    seen = {"If-Match": api.ask("GET", SITE, by="vera").headers["etag"]}

    first = api.ask("PATCH", SITE, by="alice", body={"broker_port": 9001}, headers=seen)
    second = api.ask("PATCH", SITE, by="alice", body={"broker_port": 9002}, headers=seen)

    assert (first.status, second.status) == (200, 412)
    assert api.ask("GET", SITE, by="vera").json["broker_port"] == 9001


@pytest.mark.parametrize(("tags", "status"), [("*", 200), ('"other", *', 200), ('"other"', 412)])
def test_any_of_several_tags_will_do(api: RunningApi, tags: str, status: int) -> None:
    headers = {"If-Match": tags}

    assert api.ask("PATCH", SITE, by="alice", body={}, headers=headers).status == status


def test_what_is_not_there_matches_nothing(api: RunningApi) -> None:
    missing = document("1GiB") | {"metadata": {"name": "missing"}}
    path, headers = "/v1/hardware-classes/missing", {"If-Match": "*"}

    assert api.ask("PUT", path, by="alice", body=missing, headers=headers).status == 412
    assert api.ask("PUT", path, by="alice", body=missing).status == 200

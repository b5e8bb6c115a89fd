"""Every list that grows is given a page at a time, with a link to the next."""

from typing import Any
from urllib.parse import quote

import pytest

from mailboat_controller.api.pages import PAGE_ROWS, PAGE_ROWS_MAX
from mailboat_controller.client import ApiClient
from mailboat_controller.store import classes, webhook_deliveries
from mailboat_schemas.documents.hardware_class import HardwareClass
from running_api import HARDWARE_CLASS, RunningApi

DEVICES = tuple(f"dev-{number}" for number in range(1, 6))


@pytest.fixture(scope="module", autouse=True)
def fleet(api: RunningApi) -> None:
    token = api.kit(uses=len(DEVICES))["token"]
    for device in DEVICES:
        assert api.enrol(device, token=token).status == 201
    for name in ("a", "b", "c", "d"):
        document = HARDWARE_CLASS | {"metadata": {"name": name}}
        path = f"/v1/hardware-classes/{name}"
        assert api.ask("PUT", path, by="alice", body=document).status == 200
        site = {"name": f"site-{name}", "broker_host": "broker.example"}
        assert api.ask("POST", "/v1/sites", by="alice", body=site).status == 201


def next_of(link: str | None) -> str | None:
    if link is None:
        return None
    address, _, rel = link.partition(">; rel=")
    assert rel == '"next"'
    return address.removeprefix("<")


def pages(api: RunningApi, path: str) -> list[list[Any]]:
    found, following = [], path
    while following is not None:
        answer = api.ask("GET", following, by="alice")
        assert answer.status == 200, answer.content
        found.append(answer.json)
        following = next_of(answer.headers.get("link"))
    return found


@pytest.mark.parametrize(
    "path",
    [
        "/v1/access-tokens",
        "/v1/audit",
        "/v1/audit/sealed",
        "/v1/devices",
        "/v1/devices?selector=class%3Dkiosk-x86",
        "/v1/hardware-classes",
        "/v1/sites",
    ],
)
def test_pages_are_the_whole_list_and_no_row_twice(api: RunningApi, path: str) -> None:
    sign = "&" if "?" in path else "?"
    whole = pages(api, f"{path}{sign}limit=500")
    by_two = pages(api, f"{path}{sign}limit=2")

    assert len(whole) == 1
    assert [row for page in by_two for row in page] == whole[0]
    assert all(len(page) == 2 for page in by_two[:-1])
    assert 0 < len(by_two[-1]) <= 2


def test_the_newest_of_the_audit_log_are_followed_backwards(api: RunningApi) -> None:
    newest = pages(api, "/v1/audit?before=9&limit=3")

    assert [[row["sequence"] for row in page] for page in newest] == [[6, 7, 8], [3, 4, 5], [1, 2]]


def test_a_row_that_went_hides_no_other(api: RunningApi) -> None:
    first = api.ask("GET", "/v1/sites?limit=2", by="alice")
    last = first.json[-1]["name"]
    removal = {"reason": "it is closed"}
    assert api.ask("POST", f"/v1/sites/{last}/remove", by="alice", body=removal).status == 200

    following = next_of(first.headers["link"])
    assert following is not None
    rows = api.ask("GET", following, by="alice").json

    assert [row["name"] for row in rows] == ["site-c", "site-d"]


@pytest.mark.parametrize("cursor", ["AAAA", "WzEsMl0", "eyJhIjoxfQ", "Ww"])
def test_a_cursor_of_elsewhere_is_refused(api: RunningApi, cursor: str) -> None:
    answer = api.ask("GET", f"/v1/sites?after={quote(cursor)}", by="alice")

    assert (answer.status, answer.json["code"]) == (400, "E-CURSOR")


def test_a_page_has_a_bound(api: RunningApi) -> None:
    assert api.ask("GET", f"/v1/sites?limit={PAGE_ROWS_MAX}", by="alice").status == 200
    assert api.ask("GET", f"/v1/sites?limit={PAGE_ROWS_MAX + 1}", by="alice").status == 422


def test_the_client_follows_the_links(api: RunningApi) -> None:
    names = [f"many-{number:03}" for number in range(PAGE_ROWS + 1)]
    with api.store.transaction() as tx:
        for name in names:
            document = HARDWARE_CLASS | {"metadata": {"name": name}}
            classes.put(tx, HardwareClass.model_validate(document), api.now())

    with ApiClient.open(api.connection_file("alice")) as client:
        every = client.get("/v1/hardware-classes")
        begun = client.get("/v1/hardware-classes", limit=2)

    assert [each["metadata"]["name"] for each in every] == ["a", "b", "c", "d", "kiosk-x86", *names]
    assert begun == every[:2]


def test_what_waits_for_a_person_comes_in_pages_too(api: RunningApi) -> None:
    token = api.kit(uses=3, approval=True)["token"]
    for number in range(3):
        assert api.enrol(f"new-{number}", token=token).status == 202

    found = pages(api, "/v1/devices/pending?limit=2")

    assert [[row["device"] for row in page] for page in found] == [["new-0", "new-1"], ["new-2"]]


def test_a_webhooks_deliveries_are_followed_from_the_newest(api: RunningApi) -> None:
    hook = {"name": "alerts", "url": "http://127.0.0.1:9/x", "reason": "to be told"}
    assert api.ask("POST", "/v1/webhooks", by="alice", body=hook).status == 201
    with api.store.transaction() as tx:
        for number in range(1, 6):
            webhook_deliveries.queue(
                tx, "alerts", f"msg_{number}", number, "rollout.halted", b"{}", api.now()
            )

    found = pages(api, "/v1/webhooks/alerts/deliveries?limit=2")

    assert [[row["event"][-1] for row in page] for page in found] == [["5", "4"], ["3", "2"], ["1"]]

"""Every page and every list once on PostgreSQL, with something in all of them, in a database that
sorts names as English does; the other tests of pages have SQLite."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from console_story import DEVICES, FAILED, SITE, ConsoleStory
from console_visitor import Browser
from mailboat_controller.console.app import ROUTERS
from mailboat_controller.store.engine import Store
from postgres_server import PostgresServer
from running_api import HARDWARE_CLASS, RunningApi, running_api
from trust_fleet import CLASS, MODEL

pytestmark = pytest.mark.slow

# As en_US.UTF-8 of the C library does it, which a server has by default: hyphens do not count.
IN_ENGLISH = (
    "CREATE DATABASE english TEMPLATE template0 ENCODING 'UTF8' "
    "LOCALE_PROVIDER icu ICU_LOCALE 'en-US-u-ka-shifted'"
)
LOG_REQUEST = "ab" * 8
# Of every address below /console that can be got: what a person asks it with.
ASKED: dict[str, tuple[str, ...]] = {
    "/": ("/",),
    "/audit": ("/audit", "/audit?action=rollout.&actor=&subject=second", "/audit?before=3"),
    "/audit/chain": ("/audit/chain",),
    "/devices/{device}": (
        f"/devices/{FAILED}?model={MODEL}&release=1.1.0&hours=168",
        f"/devices/{DEVICES[-1]}",
    ),
    "/devices/{device}/logs/{log_request}": (f"/devices/{FAILED}/logs/{LOG_REQUEST}",),
    "/errors": ("/errors",),
    "/errors/{code}": ("/errors/E-NOT-FOUND",),
    "/fleet": (
        "/fleet",
        "/fleet?selector=condition%3Dsilent",
        "/fleet?selector=stale&group=state",
        f"/fleet?selector=running%3D{MODEL}%401.0.0,presence!%3Doffline&group=site&after=1",
    ),
    "/fleet/cells/{number}": ("/fleet/cells/1",),
    "/fleet/columns": ("/fleet/columns", "/fleet/columns?group=state&selector=held"),
    "/kpis": ("/kpis",),
    "/live": (),  # a stream; test_live.py
    "/login": ("/login",),
    "/releases": ("/releases", f"/releases?model={MODEL}&page=2"),
    "/releases/{model}/{version}": (f"/releases/{MODEL}/1.1.0", f"/releases/{MODEL}/1.3.0"),
    "/releases/{model}/{version}/diff": (f"/releases/{MODEL}/1.1.0/diff?from=1.0.0&every=1",),
    "/rollouts": ("/rollouts", f"/rollouts?phase=halted&model={MODEL}"),
    "/rollouts/{name}": ("/rollouts/second?every=1", "/rollouts/first", "/rollouts/third"),
    "/session": ("/session",),
    "/sites": ("/sites",),
    "/sites/{name}": (f"/sites/{SITE}",),
    "/static/{name:path}": (),  # files
    "/trust": ("/trust",),
}
NAMES = {
    "device": FAILED,
    "model": MODEL,
    "version": "1.1.0",
    "base_version": "1.0.0",
    "hardware_class": CLASS,
    "role": "targets",
    "digest": "ab" * 32,
    "file": "acl",
    "id": "1",
    "key_id": "cd" * 16,
    "level": "site",
    "target": SITE,
    "request": LOG_REQUEST,
    "log_request": LOG_REQUEST,
}
# Asked for all the same: the database looks.
NOT_THERE = {
    "/v1/content-keys/{key_id}": 404,
    "/v1/documents/{role}/{level}/{target}/{version}": 404,
    "/v1/quarantine/{id}": 404,
    "/v1/sites/{name}/access/{file}": 403,
}
QUERIES = {"/v1/traces": f"?of={MODEL}@1.1.0"}
NAMES_BY_NOUN = {
    "rollouts": {"name": "second"},
    "hardware-classes": {"name": CLASS},
    "sites": {"name": SITE},
    "webhooks": {"name": "alerts"},
    "gitops": {"name": "production"},
    "documents": {"role": "config"},
}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer) -> Iterator[RunningApi]:
    postgres.sql("postgres", IN_ENGLISH)
    url = postgres.url("english")
    store = Store(url)
    store.migrate()
    store.close()
    directory = tmp_path_factory.mktemp("postgresql")
    with running_api(directory, database_url=url, rate_known_per_second=10_000.0) as api:
        assert not api.store.is_sqlite
        ConsoleStory(api).tell()
        _furnish(api)
        yield api


def _furnish(api: RunningApi) -> None:
    api.app.state.context.log_orders.ask(
        FAILED,
        LOG_REQUEST,
        actor="operator:alice",
        reason="to see why",
        since=None,
        follow_seconds=0,
        valid=timedelta(days=1),
    )
    hook = {"name": "alerts", "url": "http://127.0.0.1:9/hook", "reason": "to be told"}
    assert api.ask("POST", "/v1/webhooks", by="alice", body=hook).status == 201
    begun = {"documents": [], "reason": "begun"}
    assert api.ask("POST", "/v1/gitops/production/apply", by="alice", body=begun).status == 200
    # In English "a-c" stands behind "ab", for a cursor before it.
    for name in ("aa", "a-b", "ab", "a-c"):
        document = HARDWARE_CLASS | {"metadata": {"name": name}}
        path = f"/v1/hardware-classes/{name}"
        assert api.ask("PUT", path, by="alice", body=document).status == 200
        site = {"name": name, "broker_host": "broker.example"}
        assert api.ask("POST", "/v1/sites", by="alice", body=site).status == 201


def test_every_page_is_asked_for() -> None:
    got = {
        route.path
        for router in ROUTERS
        for route in router.routes
        if "GET" in getattr(route, "methods", ())
    }
    assert got == set(ASKED)


def test_every_page_is_answered(api: RunningApi) -> None:
    operator = Browser(api).log_in("alice")
    found = {path: operator.get(path).status for paths in ASKED.values() for path in paths}
    redirects = {"/login": 303, "/session": 204}

    assert found == {path: redirects.get(path, 200) for path in found}


def test_everything_that_can_be_got_from_the_api_is_answered(api: RunningApi) -> None:
    """An operator may ask for all of it but the files of a site's broker."""
    found = {}
    for path, operations in api.ask("GET", "/openapi.json").json["paths"].items():
        if "get" in operations:
            noun = [*path.split("/"), ""][2]
            address = path.format_map(NAMES | NAMES_BY_NOUN.get(noun, {}))
            found[path] = api.ask("GET", f"{address}{QUERIES.get(path, '')}", by="alice").status

    assert found == {path: NOT_THERE.get(path, 200) for path in found}


def test_a_zero_character_in_an_address_is_refused_before_the_database(api: RunningApi) -> None:
    """SQLite takes it, PostgreSQL's text does not."""
    found = {}
    for path, operations in api.ask("GET", "/openapi.json").json["paths"].items():
        for each in operations.get("get", {}).get("parameters", ()):
            noun = [*path.split("/"), ""][2]
            names = NAMES | NAMES_BY_NOUN.get(noun, {})
            if each["in"] == "path":
                address = path.format_map(names | {each["name"]: "%00"})
            else:
                address = f"{path.format_map(names)}?{each['name']}=%00"
            found[address] = api.ask("GET", address, by="alice").status

    assert {status for status in found.values() if status >= 500} == set(), found
    assert len(found) > len(NAMES)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/access-tokens",
        "/v1/audit",
        "/v1/devices",
        "/v1/devices?selector=condition!%3Dsilent",
        "/v1/hardware-classes",
        "/v1/releases",
        "/v1/rollouts",
        "/v1/sites",
    ],
)
def test_pages_are_the_whole_list_in_whatever_order_names_are_sorted(
    api: RunningApi, path: str
) -> None:
    sign = "&" if "?" in path else "?"
    whole = api.ask("GET", f"{path}{sign}limit=500", by="alice")
    found: list[Any] = []
    following: str | None = f"{path}{sign}limit=1"
    while following is not None:
        answer = api.ask("GET", following, by="alice")
        assert answer.status == 200, answer.content
        found += answer.json
        link = answer.headers.get("link")
        following = None if link is None else link.partition(">")[0].removeprefix("<")

    assert len(whole.json) > 1
    assert found == whole.json

"""Every page and whom it opens for. The API's own doors: `api/test_identity.py`."""

import base64
from collections.abc import Iterator

import pytest
from starlette.routing import Route

from console_fleet import enrol_one
from console_visitor import Browser
from mailboat_controller.api.app import make_app
from mailboat_controller.console import flash
from mailboat_schemas.enrolment import Kind
from running_api import RunningApi

PEOPLE = {"viewer", "operator", "approver"}
OPERATOR = {"operator"}
WHO = {"vera": "viewer", "alice": "operator", "paul": "approver"}
LOG = "/devices/{device}/logs/{log_request}"
# method, route, an address of it, who may; nobody is led to the login
RULES: list[tuple[str, str, str, set[str]]] = [
    ("GET", "/", "/", PEOPLE),
    ("GET", "/fleet", "/fleet", PEOPLE),
    ("GET", "/fleet/columns", "/fleet/columns", PEOPLE),
    ("GET", "/fleet/cells/{number}", "/fleet/cells/999999", PEOPLE),
    # Without the header of a stream: asked for, it would last.
    ("GET", "/live", "/live", PEOPLE),
    ("GET", "/session", "/session", PEOPLE),
    ("GET", "/errors", "/errors", PEOPLE),
    ("GET", "/errors/{code}", "/errors/E-CONFIG", PEOPLE),
    ("GET", "/devices/{device}", "/devices/door-1", PEOPLE),
    ("POST", "/devices/{device}/hold", "/devices/door-1/hold", OPERATOR),
    ("POST", "/devices/{device}/release-hold", "/devices/door-1/release-hold", OPERATOR),
    ("POST", "/devices/{device}/pin", "/devices/door-1/pin", OPERATOR),
    ("POST", "/devices/{device}/unpin", "/devices/door-1/unpin", OPERATOR),
    ("POST", "/devices/{device}/logs", "/devices/door-1/logs", OPERATOR),
    ("GET", LOG, f"/devices/door-1/logs/{16 * 'a'}", OPERATOR),
    ("GET", "/releases", "/releases", PEOPLE),
    ("GET", "/releases/{model}/{version}", "/releases/vad/1.0.0", PEOPLE),
    ("GET", "/releases/{model}/{version}/diff", "/releases/vad/1.0.0/diff", PEOPLE),
    ("POST", "/releases/{model}/{version}/reject", "/releases/vad/1.0.0/reject", {"approver"}),
    ("GET", "/rollouts", "/rollouts", PEOPLE),
    ("GET", "/rollouts/{name}", "/rollouts/none", PEOPLE),
    ("POST", "/rollouts/{name}/{verb}", "/rollouts/none/abort", OPERATOR),
    ("GET", "/sites", "/sites", PEOPLE),
    ("GET", "/sites/{name}", "/sites/none", PEOPLE),
    ("GET", "/trust", "/trust", PEOPLE),
    ("GET", "/audit", "/audit", PEOPLE),
    ("GET", "/audit/chain", "/audit/chain", PEOPLE),
    ("GET", "/kpis", "/kpis", PEOPLE),
]
# What needs nobody: the way in, how pages look, and files that are in every copy of the program.
OPEN = {
    ("GET", "/login"),
    ("POST", "/login"),
    ("POST", "/theme"),
    ("GET", "/static/{name:path}"),
}
LOGOUT = ("POST", "/logout")  # would end the session that the others use: `test_login.py`


@pytest.fixture(scope="module", autouse=True)
def device(api: RunningApi) -> None:
    enrol_one(api.store, "door-1", api.now())


@pytest.fixture(scope="module")
def browsers(api: RunningApi) -> dict[str, Browser]:
    return {name: Browser(api).log_in(name) for name in WHO}


def ask(browser: Browser, method: str, path: str) -> int:
    return (browser.get(path) if method == "GET" else browser.post(path)).status


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [(method, path, allowed) for method, _, path, allowed in RULES],
    ids=[f"{method} {route}" for method, route, _, _ in RULES],
)
def test_each_page_opens_for_whom_it_is_meant(
    api: RunningApi, browsers: dict[str, Browser], method: str, path: str, allowed: set[str]
) -> None:
    nobody = Browser(api)
    assert ask(nobody, method, path) == (303 if method == "GET" else 403)
    for name, role in WHO.items():
        status = ask(browsers[name], method, path)
        assert (status == 403) == (role not in allowed), f"{name}: {status}"
        assert status < 500


def routes() -> Iterator[tuple[str, str]]:
    for included in make_app().state.console.routes:
        router = getattr(included, "original_router", None)
        for route in [included] if router is None else router.routes:
            assert isinstance(route, Route)
            for method in route.methods or set():
                yield method, route.path


def test_no_page_is_missing_from_the_list() -> None:
    """Whoever adds one says here whom it is for."""
    listed = {(method, route) for method, route, _, _ in RULES}
    assert set(routes()) == listed | OPEN | {LOGOUT}


def test_a_certificate_opens_no_page(api: RunningApi) -> None:
    """People have tokens; whoever's browser has a certificate as well logs in like anybody."""
    api.issue(Kind.DASHBOARD, "door-wall")

    assert Browser(api, by="door-wall").get("/").status == 303
    assert Browser(api, by="door-wall").log_in("vera").get("/").status == 200


def test_a_session_opens_no_door_of_the_api(api: RunningApi, operator: Browser) -> None:
    """A cookie goes along with whatever any page on the web sends here."""
    cookie = "; ".join(f"{name}={value}" for name, value in operator.cookies.items())

    answer = api.ask("GET", "/v1/devices", headers={"Cookie": cookie})
    assert (answer.status, answer.json["code"]) == (401, "E-IDENTITY-REQUIRED")


@pytest.mark.parametrize("path", ["/", "/console"])
def test_the_front_door_leads_to_the_console(api: RunningApi, path: str) -> None:
    answer = api.ask("GET", path)
    assert (answer.status, answer.headers["location"]) == (303, "/console/")


def test_every_answer_says_that_nothing_foreign_may_run(operator: Browser) -> None:
    for path in ("/", "/fleet", "/nowhere", "/static/console.css", "/static/none"):
        headers = operator.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store" or path.endswith(".css")


def test_no_page_has_a_script_or_a_style_in_it(operator: Browser) -> None:
    """They would not run, by the policy; so one that stands there is one that does not work."""
    for path in ("/", "/fleet", "/nowhere", "/errors"):
        html = operator.get(path).html
        assert "<style" not in html
        assert 'style="' not in html
        assert " onclick" not in html
        assert html.count("<script") == html.count('<script src="/console/static/')


@pytest.mark.parametrize("said", [b'["ok","\\ud800"]', b'["ok",1]', b'["ok"]', b"[" * 900, b"\xff"])
def test_a_word_in_the_cookie_that_is_none_is_not_shown(api: RunningApi, said: bytes) -> None:
    cookie = f"{flash.COOKIE}={base64.urlsafe_b64encode(said).decode().rstrip('=')}"
    assert Browser(api).get("/login", Cookie=cookie).status == 200

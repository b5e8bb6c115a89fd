"""Logging in, staying in, and being out again."""

from datetime import timedelta

import pytest

from console_visitor import Browser
from mailboat_controller.access.people import Role, new_token
from mailboat_controller.access.rate_limits import Buckets, RateLimited
from mailboat_controller.console.login import FAILED_PER_MINUTE, Failures
from mailboat_controller.store import access_tokens, audit, console_sessions
from mailboat_controller.store.console_sessions import PER_TOKEN_MAX
from running_api import RunningApi

COOKIE = "__Host-mailboat-session"


@pytest.fixture
def lena(api: RunningApi) -> Browser:
    api.admit(Role.OPERATOR, "lena")
    return Browser(api).log_in("lena")


def test_a_token_opens_the_page_that_was_asked_for(api: RunningApi) -> None:
    browser = Browser(api)
    led = browser.get("/fleet?group=site").headers["location"]
    assert led == "/console/login?next=%2Fconsole%2Ffleet%3Fgroup%3Dsite"

    answer = browser.post("/login", token=api.tokens["vera"], next="/console/fleet?group=site")
    assert (answer.status, answer.headers["location"]) == (303, "/console/fleet?group=site")
    assert "Logged in as viewer:vera" in browser.get("/fleet").text


def test_the_cookie_is_for_our_pages_and_the_browser_alone(api: RunningApi) -> None:
    answer = Browser(api).post("/login", token=api.tokens["vera"]).answer
    (cookie,) = (each for each in answer.all_headers["set-cookie"] if each.startswith(COOKIE))

    for part in ("HttpOnly", "Secure", "SameSite=strict", "Path=/"):
        assert part in cookie
    assert api.tokens["vera"] not in cookie
    assert "Domain" not in cookie


@pytest.mark.parametrize(
    "elsewhere",
    [
        "https://evil.example/",
        "//evil.example",
        "/\\evil.example",
        "/console//evil.example",
        "javascript:alert(1)",
        "/v1/devices",
        "/console/\r\nSet-Cookie: a=b",
    ],
)
def test_a_login_leads_nowhere_but_to_our_pages(api: RunningApi, elsewhere: str) -> None:
    answer = Browser(api).post("/login", token=api.tokens["vera"], next=elsewhere)
    assert answer.headers["location"] == "/console"


def test_a_session_ends_everywhere_at_its_logout(api: RunningApi, lena: Browser) -> None:
    copy = Browser(api, cookies=dict(lena.cookies))
    assert copy.get("/").status == 200

    assert lena.post("/logout").status == 303
    assert copy.get("/").status == 303
    assert COOKIE not in lena.cookies


def test_a_revoked_token_ends_its_sessions_at_the_next_request(
    api: RunningApi, lena: Browser
) -> None:
    assert lena.get("/").status == 200
    with api.store.transaction() as tx:
        access_tokens.revoke(tx, "lena", api.now())

    page = lena.get("/")
    assert page.status == 303
    assert "why=ended" in page.headers["location"]


def test_a_session_that_nobody_uses_ends(api: RunningApi, lena: Browser) -> None:
    try:
        api.clock_ahead = timedelta(minutes=59)
        assert lena.get("/").status == 200  # and counts from here
        api.clock_ahead = timedelta(minutes=118)
        assert lena.get("/").status == 200
        api.clock_ahead = timedelta(minutes=179)
        assert lena.get("/").status == 303
    finally:
        api.clock_ahead = timedelta()


@pytest.mark.slow
def test_a_page_that_updates_itself_keeps_nobody_logged_in(api: RunningApi, lena: Browser) -> None:
    try:
        for minutes in (25, 50):
            api.clock_ahead = timedelta(minutes=minutes)
            assert lena.get("/session").status == 204
            assert lena.get("/", **{"HX-Request": "true"}).status == 200
        api.clock_ahead = timedelta(minutes=61)
        assert lena.get("/").status == 303
    finally:
        api.clock_ahead = timedelta()


@pytest.mark.slow
def test_a_session_ends_after_its_day_however_busy_it_was(api: RunningApi, lena: Browser) -> None:
    statuses = []
    try:
        for minutes in range(0, 13 * 60, 45):
            api.clock_ahead = timedelta(minutes=minutes)
            statuses.append(lena.get("/errors/E-CONFIG").status)
    finally:
        api.clock_ahead = timedelta()

    assert statuses == [200] * 16 + [303] * 2  # 12 hours


def test_a_login_that_failed_is_written_down_without_the_token(api: RunningApi) -> None:
    wrong = new_token().text()
    page = Browser(api).post("/login", token=wrong)

    assert (page.status, page.headers["mailboat-error-code"]) == (401, "E-TOKEN-INVALID")
    assert wrong not in page.html
    with api.store.read() as tx:
        entry = audit.newest(tx, "console", "console.refuse_login")
    assert entry is not None
    assert entry.actor == "unknown"
    assert wrong[-20:] not in str(entry)
    assert entry.details["address"] == "127.0.0.1"


@pytest.mark.parametrize("token", ["", "mbt_", "x" * 300, "mbt_" + 16 * "a" + "_'; DROP--", "\0"])
def test_what_is_no_token_is_refused_in_words(api: RunningApi, token: str) -> None:
    page = Browser(api).post("/login", token=token)
    assert page.status in (401, 422)


def test_whoever_fails_too_often_waits() -> None:
    failures = Failures()
    for _ in range(FAILED_PER_MINUTE):
        failures.count("192.0.2.7")

    with pytest.raises(RateLimited):
        failures.count("192.0.2.7")
    failures.count("192.0.2.8")


def test_whoever_has_to_wait_is_told_for_how_long(
    api: RunningApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = Failures()
    monkeypatch.setattr(failures, "_buckets", Buckets(per_second=1 / 1000, burst=1))
    monkeypatch.setattr(api.app.state.console.state, "failures", failures)
    failures.count("127.0.0.1")

    page = Browser(api).post("/login", token=new_token().text())

    assert (page.status, page.headers["mailboat-error-code"]) == (429, "E-RATE-LIMITED")
    assert 500 < int(page.headers["retry-after"]) <= 1000


@pytest.mark.slow
def test_one_browser_more_than_a_token_may_have_logs_the_oldest_out(api: RunningApi) -> None:
    api.admit(Role.VIEWER, "many")
    first = Browser(api).log_in("many")
    with api.store.transaction() as tx:
        row = next(each for each in access_tokens.every(tx) if each.name == "many")
        for n in range(PER_TOKEN_MAX - 1):
            later = api.now() + timedelta(seconds=1 + n)
            ends = later + timedelta(hours=1)
            console_sessions.add(tx, f"{n:064x}", token_id=row.id, at=later, ends_at=ends)
    assert first.get("/session").status == 204

    with api.store.transaction() as tx:
        later = api.now() + timedelta(minutes=5)
        ends = later + timedelta(hours=1)
        console_sessions.add(tx, "f" * 64, token_id=row.id, at=later, ends_at=ends)
    assert first.get("/session").status == 303


def test_a_link_from_a_chat_reaches_whoever_is_logged_in(api: RunningApi) -> None:
    """SameSite=Strict keeps the cookie back then; asked again from our own page, it comes."""
    page = Browser(api).get(
        "/fleet?selector=site=hall&group=none", **{"Sec-Fetch-Site": "cross-site"}
    )

    assert page.status == 200
    there = "/console/fleet?selector=site=hall&amp;group=none"  # all of it: an alert names a filter
    assert f'<meta http-equiv="refresh" content="0; url={there}">' in page.html
    assert "devices" not in page.text


def test_a_script_is_told_in_a_status_that_nobody_is_logged_in(api: RunningApi) -> None:
    page = Browser(api).get("/live", Accept="text/event-stream")
    assert (page.status, "hx-redirect" in page.headers) == (401, True)


def test_the_theme_is_chosen_without_javascript(viewer: Browser) -> None:
    assert 'data-theme="auto"' in viewer.get("/").html
    answer = viewer.post("/theme", theme="dark", back="/console/fleet")
    assert answer.headers["location"] == "/console/fleet"
    assert 'data-theme="dark"' in viewer.get("/").html

    viewer.post("/theme", theme='"><script>', back="https://evil.example")
    assert 'data-theme="auto"' in viewer.get("/").html


def test_logging_in_again_ends_the_session_that_this_browser_had(api: RunningApi) -> None:
    browser = Browser(api).log_in("vera")
    before = dict(browser.cookies)
    browser.log_in("alice")

    assert browser.get("/session").status == 204
    assert Browser(api, cookies=before).get("/session").status == 303

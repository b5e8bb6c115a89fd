"""A change comes from one of our own pages, or it is not made."""

import re

import pytest
from starlette.routing import Route

from console_visitor import Browser
from mailboat_controller.api.app import make_app
from mailboat_controller.console import csrf
from running_api import RunningApi


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "https://evil.example", "Sec-Fetch-Site": "none"},
    ],
)
def test_a_form_of_another_site_changes_nothing(operator: Browser, headers: dict[str, str]) -> None:
    page = operator.post("/logout", send_headers=headers)

    assert (page.status, page.headers["mailboat-error-code"]) == (403, "E-CROSS-SITE")
    assert operator.get("/session").status == 204


@pytest.mark.parametrize("token", ["", "0" * 64, "é"])
def test_a_form_without_our_token_changes_nothing(operator: Browser, token: str) -> None:
    page = operator.post("/logout", csrf=token)

    assert (page.status, page.headers["mailboat-error-code"]) == (403, "E-CROSS-SITE")
    assert operator.get("/session").status == 204


def test_another_persons_token_is_none(operator: Browser, viewer: Browser) -> None:
    assert operator.post("/logout", csrf=viewer.csrf).status == 403


def test_a_program_that_sends_no_origin_at_all_changes_nothing(
    api: RunningApi, operator: Browser
) -> None:
    cookie = "; ".join(f"{name}={value}" for name, value in operator.cookies.items())
    headers = {"Cookie": cookie, "Content-Type": "application/x-www-form-urlencoded"}

    body = f"csrf={operator.csrf}".encode()
    assert api.ask("POST", "/console/logout", body=body, headers=headers).status == 403


def test_a_login_cannot_be_made_from_another_site(api: RunningApi) -> None:
    """It would log a person in as somebody else, without their noticing."""
    page = Browser(api).post(
        "/login", token=api.tokens["vera"], send_headers={"Sec-Fetch-Site": "cross-site"}
    )
    assert page.status == 403


def test_a_script_of_ours_sends_the_token_in_a_header(api: RunningApi) -> None:
    browser = Browser(api).log_in("vera")
    answer = browser.post("/logout", csrf="", send_headers={"X-Mailboat-CSRF": browser.csrf})
    assert answer.status == 303


def test_a_body_that_is_too_large_is_not_read(api: RunningApi) -> None:
    assert Browser(api).post("/login", token="x" * 70_000).status == 413


def changing_routes() -> list[str]:
    console = make_app().state.console
    included = [getattr(each, "original_router", None) for each in console.routes]
    routes = [
        route
        for each, router in zip(console.routes, included, strict=True)
        for route in ([each] if router is None else router.routes)
    ]
    return [
        re.sub(r"{[^}]*}", "abort", route.path)
        for route in routes
        if isinstance(route, Route) and (route.methods or set()) - {"GET", "HEAD"}
    ]


@pytest.mark.parametrize("path", changing_routes())
def test_no_route_that_changes_something_takes_a_form_of_another_site(
    operator: Browser, path: str
) -> None:
    page = operator.post(path, send_headers={"Sec-Fetch-Site": "cross-site"})
    assert (page.status, page.headers["mailboat-error-code"]) == (403, "E-CROSS-SITE")


@pytest.mark.parametrize("path", sorted({*changing_routes()} - csrf.WITHOUT_TOKEN))
def test_no_route_that_changes_something_does_without_our_token(
    operator: Browser, path: str
) -> None:
    page = operator.post(path, csrf="")
    assert (page.status, page.headers["mailboat-error-code"]) == (403, "E-CROSS-SITE")


def test_a_page_that_came_without_tls_is_not_ours(operator: Browser) -> None:
    page = operator.post(
        "/logout", send_headers={"Origin": operator.api.url.replace("https:", "http:")}
    )
    assert page.status == 403

"""Single sign-on: a proxy that has a credential of this fleet says who it is."""

import ssl
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from pydantic import ValidationError
from starlette.requests import Request

from console_visitor import Browser
from mailboat_controller import data_directory
from mailboat_controller.access.people import Role
from mailboat_controller.api.identity import Person
from mailboat_controller.console import updates
from mailboat_controller.console.proxy_sign_in import GROUPS_MAX, ProxySignInRefused, person_of
from mailboat_controller.console.session import COOKIE
from mailboat_controller.console.settings import ConsoleSettings
from mailboat_controller.https_server import CLIENT_CERTIFICATE, EXTENSION
from mailboat_controller.pki.certificates import Holder
from mailboat_schemas.enrolment import Kind
from running_api import RunningApi, running_api

USER = "X-Forwarded-Preferred-Username"
GROUPS = "X-Forwarded-Groups"
ACTOR_CHARS_MAX = 128  # of store/audit.py's column

SETTINGS = ConsoleSettings(
    proxy="front", proxy_roles={"fleet-ops": Role.OPERATOR, "staff": Role.VIEWER}
)
FRONT = Holder(kind=Kind.DASHBOARD, name="front", fleet="demo", serial="1", enrolment_number=0)


def told(holder: Holder, **sent: str) -> Person | None:
    names = {"user": USER, "groups": GROUPS}
    headers = [(names[name].lower().encode(), value.encode()) for name, value in sent.items()]
    return person_of(holder, headers, SETTINGS)


def test_the_strongest_of_several_groups_counts() -> None:
    person = told(FRONT, user="ann@example.org", groups="staff, fleet-ops")
    assert str(person) == "operator:front/ann@example.org"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Jörg", "Järg"),
        ("Jörg", "J%C3%B6rg"),
        ("ann b", "ann-b"),
        ("Nicolà", "NicolÃ"),  # whose last byte is a blank, if bytes are read as letters
        ("n" * 80 + "1", "n" * 80 + "2"),
        ("ö" * 40 + "1", "ö" * 40 + "2"),
    ],
)
def test_two_people_never_have_one_name_in_the_audit_log(one: str, other: str) -> None:
    people = [told(FRONT, user=user, groups="staff") for user in (one, other)]
    actors = {str(person)[:ACTOR_CHARS_MAX] for person in people}
    assert len(actors) == 2
    assert all(actor.isascii() and actor.isprintable() for actor in actors)


def test_the_longest_names_fit_into_the_audit_log() -> None:
    settings = SETTINGS.model_copy(update={"proxy": "f" * 63})
    holder = replace(FRONT, name="f" * 63)
    headers = [(USER.lower().encode(), b"n" * 200), (GROUPS.lower().encode(), b"fleet-ops")]
    assert len(str(person_of(holder, headers, settings))) == ACTOR_CHARS_MAX


def test_a_group_is_known_by_its_name_in_any_language() -> None:
    settings = SETTINGS.model_copy(update={"proxy_roles": {"Büro Köln": Role.VIEWER}})
    headers = [(USER.lower().encode(), b"ann"), (GROUPS.lower().encode(), "x, Büro Köln".encode())]
    assert str(person_of(FRONT, headers, settings)) == "viewer:front/ann"


def test_groups_beyond_what_is_read_give_nothing() -> None:
    many = ",".join(["x"] * (GROUPS_MAX - 1) + ["staff", "fleet-ops"])
    assert str(told(FRONT, user="ann", groups=many)) == "viewer:front/ann"


def test_only_the_named_proxy_speaks_for_others() -> None:
    other = replace(FRONT, name="hall")
    assert told(other, user="ann", groups="fleet-ops") is None
    assert told(replace(FRONT, kind=Kind.DEVICE), user="ann", groups="fleet-ops") is None


def test_a_visitor_without_a_role_is_refused() -> None:
    with pytest.raises(ProxySignInRefused, match="has no role here"):
        told(FRONT, user="ann", groups="visitors")


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    with running_api(tmp_path_factory.mktemp("proxy"), console=SETTINGS) as api:
        api.issue(Kind.DASHBOARD, "front")
        api.issue(Kind.DASHBOARD, "hall")
        yield api


@pytest.mark.slow
@pytest.mark.parametrize(
    ("groups", "role"),
    [("staff", "viewer"), ("staff,fleet-ops", "operator"), (" staff ", "viewer")],
)
def test_a_group_gives_a_role(api: RunningApi, groups: str, role: str) -> None:
    page = Browser(api, by="front").get("/", **{USER: "ann@example.org", GROUPS: groups})

    assert page.status == 200
    assert f"{role}:front/ann@example.org" in page.html


@pytest.mark.slow
def test_a_form_of_somebody_the_proxy_signed_in_needs_our_token_too(api: RunningApi) -> None:
    browser = Browser(api, by="front")
    headers = {USER: "ann", GROUPS: "staff"}
    browser.csrf = browser.get("/", **headers).csrf

    assert browser.post("/logout", send_headers=headers).status == 303
    assert browser.post("/logout", send_headers=headers, csrf="0" * 64).status == 403
    assert browser.post("/logout", send_headers=headers | {USER: "bob"}).status == 403


def test_whoever_logs_out_is_told_that_only_the_proxy_signs_out(api: RunningApi) -> None:
    browser, headers = Browser(api, by="front"), {USER: "ann", GROUPS: "staff"}
    browser.csrf = browser.get("/", **headers).csrf

    answer = browser.post("/logout", send_headers=headers)
    assert (answer.status, answer.headers["location"]) == (303, "/console/")
    assert "only it can sign you out" in browser.get("/", **headers).text


@pytest.mark.slow
def test_whoever_logs_out_is_sent_where_the_proxy_signs_out(
    api: RunningApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser, headers = Browser(api, by="front"), {USER: "ann", GROUPS: "staff"}
    browser.csrf = browser.get("/", **headers).csrf
    settings = SETTINGS.model_copy(update={"proxy_sign_out": "/oauth2/sign_out?rd=/"})
    monkeypatch.setitem(api.app.state.context.settings.__dict__, "console", settings)

    answer = browser.post("/logout", send_headers=headers)
    assert (answer.status, answer.headers["location"]) == (303, "/oauth2/sign_out?rd=/")


@pytest.mark.parametrize("path", ["//evil.example", "https://evil.example", "/", "/\\evil.example"])
def test_the_proxys_sign_out_is_a_path_of_its_own(path: str) -> None:
    with pytest.raises(ValidationError):
        ConsoleSettings(proxy_sign_out=path)


@pytest.mark.slow
@pytest.mark.parametrize("by", [None, "hall", "build"])
def test_anybody_elses_headers_say_nothing(api: RunningApi, by: str | None) -> None:
    page = Browser(api, by=by).get("/", **{USER: "ann", GROUPS: "fleet-ops"})
    assert page.status == 303


@pytest.mark.slow
@pytest.mark.parametrize(
    "headers",
    [
        {GROUPS: "staff"},
        {USER: "", GROUPS: "staff"},
        {USER: "---", GROUPS: "staff"},
        {USER: "ann"},
        {USER: "ann", GROUPS: "visitors"},
    ],
)
def test_somebody_without_a_name_or_a_role_is_told_so(
    api: RunningApi, headers: dict[str, str]
) -> None:
    page = Browser(api, by="front").get("/", **headers)
    assert (page.status, page.headers["mailboat-error-code"]) == (403, "E-PROXY-SIGN-IN")


@pytest.mark.slow
def test_the_headers_open_nothing_but_pages(api: RunningApi) -> None:
    headers = {USER: "ann", GROUPS: "fleet-ops"}
    answer = api.ask("GET", "/v1/access-tokens", by="front", headers=headers)
    assert answer.status == 403


def lasts(api: RunningApi, headers: dict[str, str]) -> Callable[[], bool]:
    """Whether a stream that the proxy asked for with these headers would go on."""
    certificate = ssl.PEM_cert_to_DER_cert(api.identities["front"][0].read_text())
    scope = {
        "type": "http",
        "path": "/console/live",
        "headers": [(name.lower().encode(), said.encode()) for name, said in headers.items()],
        "extensions": {EXTENSION: {CLIENT_CERTIFICATE: certificate}},
    }
    return updates._still(Request(scope), api.app.state.context)


@pytest.mark.slow
def test_a_stream_lasts_as_long_as_the_proxy_signs_in(api: RunningApi) -> None:
    """Also where the browser still has the cookie of a session that is none any more."""
    headers = {USER: "ann", GROUPS: "staff"}
    assert lasts(api, headers)()
    assert lasts(api, headers | {"Cookie": f"{COOKIE}=of-yesterday"})()


@pytest.mark.slow
def test_a_revoked_proxy_signs_nobody_in(api: RunningApi) -> None:
    browser = Browser(api, by="front")
    headers = {USER: "ann", GROUPS: "staff"}
    assert browser.get("/", **headers).status == 200
    now = datetime.now(UTC)
    data_directory.revoke_credential(
        api.settings, Kind.DASHBOARD, "front", reason="lost", actor="local:test", now=now
    )
    assert browser.get("/", **headers).status == 303
    assert not lasts(api, headers)()

"""People's tokens at the API: theft, replay, expiry, renewal, revocation, and what goes wrong."""

import secrets
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
import structlog

from mailboat_controller.access.people import Role, Token, new_token
from mailboat_controller.access.token_directory import revoke_tokens
from mailboat_controller.api.gate import AUDITED_PER_MINUTE
from mailboat_controller.store import access_tokens, audit
from mailboat_schemas.codec import encode
from mailboat_schemas.submission import Submission
from running_api import Answer, RunningApi, running_api
from trust_fleet import FLEET


@pytest.fixture(scope="module")
def own_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    """Another controller; and for tests that use up what all share, in the order they stand in."""
    with running_api(tmp_path_factory.mktemp("own")) as api:
        yield api


@contextmanager
def days_later(api: RunningApi, days: float) -> Iterator[None]:
    api.clock_ahead = timedelta(days=days)
    try:
        yield
    finally:
        api.clock_ahead = timedelta()


def with_header(api: RunningApi, *values: str, path: str = "/v1/devices") -> Answer:
    """One request with these Authorization headers."""
    from http.client import HTTPSConnection

    connection = HTTPSConnection("127.0.0.1", api.port, context=api.tls(None), timeout=60)
    try:
        connection.putrequest("GET", path)
        for value in values:
            connection.putheader("Authorization", value)
        connection.endheaders()
        response = connection.getresponse()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, headers, response.read())
    finally:
        connection.close()


def code(answer: Answer) -> tuple[int, str]:
    return answer.status, answer.json["code"]


def audited(api: RunningApi, action: str) -> list[audit.AuditRow]:
    with api.store.read() as tx:
        return [row for row in audit.page(tx, limit=10_000) if row.action == action]


class TestATokenIsRefused:
    def test_after_it_ended(self, api: RunningApi) -> None:
        api.admit(Role.VIEWER, "brief", days=1)
        assert api.ask("GET", "/v1/devices", by="brief").status == 200

        with days_later(api, 1):
            answer = api.ask("GET", "/v1/devices", by="brief")
        assert code(answer) == (401, "E-TOKEN-EXPIRED")
        assert answer.headers["www-authenticate"] == "Bearer"

    def test_from_the_request_after_it_was_revoked_on(self, api: RunningApi) -> None:
        api.admit(Role.OPERATOR, "thief")
        assert api.ask("GET", "/v1/devices", by="thief").status == 200
        revocation = {"reason": "laptop stolen"}
        answer = api.ask("POST", "/v1/access-tokens/thief/revoke", by="alice", body=revocation)
        assert answer.json == {"name": "thief", "revoked": 1}

        for method, path in (("GET", "/v1/devices"), ("POST", "/v1/access-tokens/self/renew")):
            assert code(api.ask(method, path, by="thief")) == (401, "E-TOKEN-REVOKED")
        (entry,) = [each for each in audited(api, "access_token.revoke") if "thief" in each.subject]
        assert (entry.actor, entry.reason) == ("operator:alice", "laptop stolen")

    def test_when_it_was_revoked_on_the_controllers_disk(self, api: RunningApi) -> None:
        api.admit(Role.OPERATOR, "carl")
        by = {"reason": "left", "actor": "local:root", "now": api.now()}
        assert revoke_tokens(api.settings, "carl", token_id=None, **by) == 1

        assert code(api.ask("GET", "/v1/devices", by="carl")) == (401, "E-TOKEN-REVOKED")

    def test_that_another_controller_made(self, api: RunningApi, own_api: RunningApi) -> None:
        stolen = own_api.tokens["alice"]

        assert code(with_header(api, f"Bearer {stolen}")) == (401, "E-TOKEN-INVALID")

    def test_whose_secret_is_wrong_in_the_words_of_one_that_is_not_known(
        self, api: RunningApi
    ) -> None:
        known = "_".join([*api.tokens["vera"].split("_")[:2], secrets.token_hex(32)])
        answers = [with_header(api, f"Bearer {text}") for text in (known, new_token().text())]

        assert {code(answer) for answer in answers} == {(401, "E-TOKEN-INVALID")}
        assert answers[0].content == answers[1].content

    def test_before_it_was_made(self, api: RunningApi) -> None:
        """As after the controller's clock was set back, which would bring old tokens to life."""
        with days_later(api, -1):
            assert code(api.ask("GET", "/v1/devices", by="vera")) == (401, "E-TOKEN-EXPIRED")

    def test_and_never_made_up_for_by_a_certificate(self, api: RunningApi) -> None:
        headers = {"Authorization": f"Bearer {new_token().text()}"}

        answer = api.ask("GET", "/v1/devices", by="wall", headers=headers)

        assert code(answer) == (401, "E-TOKEN-INVALID")


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        "Bearer mbt_",
        "Bearer mbt_00_00",
        "Bearer \xe9\xff",
        "Basic YWxpY2U6c2VjcmV0",
        "mbt_0000000000000000_" + "0" * 64,
        "Bearer mbt_0000000000000000_" + "0" * 64 + "_",
        "Bearer mbt_000000000000000G_" + "0" * 64,
        "Bearer " + "m" * 2000,
    ],
)
def test_a_header_that_is_no_token_is_malformed(api: RunningApi, header: str) -> None:
    assert code(with_header(api, header)) == (401, "E-TOKEN-MALFORMED")


def test_two_tokens_in_one_request_are_none(api: RunningApi) -> None:
    good = f"Bearer {api.tokens['alice']}"

    assert code(with_header(api, good, good)) == (401, "E-TOKEN-MALFORMED")
    assert code(with_header(api, good, "Basic x")) == (401, "E-TOKEN-MALFORMED")


def test_a_header_as_large_as_may_be_is_not_looked_into(api: RunningApi) -> None:
    assert with_header(api, "Bearer " + "m" * 30_000).status == 401
    assert api.ask("GET", "/v1/devices", by="alice").status == 200


@pytest.mark.parametrize("name", ["access_token", "token", "x", "Authorization"])
def test_a_token_in_the_address_is_refused_and_told_to_nobody(
    own_api: RunningApi, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    token = own_api.tokens["alice"]

    with structlog.testing.capture_logs() as logs:
        answer = own_api.ask("GET", f"/v1/devices?limit=5&{name}={token}", by="alice")

    assert code(answer) == (400, "E-TOKEN-IN-URL")
    said = capsys.readouterr()
    assert token not in f"{answer.content!r}{logs}{said.out}{said.err}"


def test_no_error_repeats_a_secret(api: RunningApi) -> None:
    token = new_token().text()
    answers = [
        with_header(api, f"Bearer {token}"),
        with_header(api, f"Bearer {token}x"),
        with_header(api, f"Bearer {token}", f"Bearer {token}"),
        with_header(api, f"Token {token}"),
    ]

    assert all(token.rpartition("_")[2].encode() not in answer.content for answer in answers)
    assert api.tokens["alice"] not in repr(api.ask("GET", "/v1/access-tokens", by="alice"))


class TestOfTheList:
    def test_an_operator_sees_who_may_come_in_but_no_secret(self, api: RunningApi) -> None:
        rows = {row["name"]: row for row in api.ask("GET", "/v1/access-tokens", by="alice").json}

        assert (rows["paul"]["role"], rows["paul"]["revoked"]) == ("approver", False)
        assert rows["alice"]["last_used_at"] is not None
        assert {"secret", "secret_sha256", "token"} & rows["alice"].keys() == set()

    def test_one_may_see_ones_own(self, api: RunningApi) -> None:
        own = api.ask("GET", "/v1/access-tokens/self", by="vera").json

        assert (own["name"], own["role"]) == ("vera", "viewer")

    def test_nobody_who_has_none_can_be_cut_off(self, api: RunningApi) -> None:
        body = {"reason": "x"}
        path = "/v1/access-tokens/nobody/revoke"

        assert code(api.ask("POST", path, by="alice", body=body)) == (404, "E-NOT-FOUND")
        assert api.ask("POST", path, by="alice", body={}).status == 422
        assert api.ask("POST", path, by="alice", body={"reason": " "}).status == 422

    def test_one_token_of_several_can_be_cut_off(self, api: RunningApi) -> None:
        api.admit(Role.VIEWER, "dora")
        first = api.tokens["dora"]
        api.admit(Role.APPROVER, "dora")
        body = {"reason": "not hers any more", "id": first.split("_")[1]}

        answer = api.ask("POST", "/v1/access-tokens/dora/revoke", by="alice", body=body)

        assert answer.json["revoked"] == 1
        assert with_header(api, f"Bearer {first}").status == 401
        assert api.ask("GET", "/v1/devices", by="dora").status == 200


def renew(api: RunningApi, name: str) -> Any:
    answer = api.ask("POST", "/v1/access-tokens/self/renew", by=name)
    assert answer.status == 201, answer.content
    return answer.json


class TestARenewal:
    def test_lives_as_long_again_and_ends_the_old_one_with_its_first_use(
        self, api: RunningApi
    ) -> None:
        api.admit(Role.VIEWER, "emil", days=10)
        old = api.tokens["emil"]
        with days_later(api, 8):
            renewed = renew(api, "emil")
            # The answer could have been lost: until somebody uses the new one both are good.
            assert with_header(api, f"Bearer {old}").status == 200
            assert with_header(api, f"Bearer {renewed['token']}").status == 200
            assert code(with_header(api, f"Bearer {old}")) == (401, "E-TOKEN-REVOKED")
        with days_later(api, 17):
            assert with_header(api, f"Bearer {renewed['token']}").status == 200

    def test_whose_answer_was_lost_is_gone_when_the_next_is_made(self, api: RunningApi) -> None:
        api.admit(Role.VIEWER, "fritz", days=10)
        with days_later(api, 8):
            lost, kept = renew(api, "fritz"), renew(api, "fritz")

            assert code(with_header(api, f"Bearer {lost['token']}")) == (401, "E-TOKEN-INVALID")
            assert with_header(api, f"Bearer {kept['token']}").status == 200

    def test_by_a_thief_is_noticed_by_the_holder_and_ends_with_them(self, api: RunningApi) -> None:
        api.admit(Role.OPERATOR, "gerda", days=10)
        with days_later(api, 1):
            taken = renew(api, "gerda")["token"]
            assert with_header(api, f"Bearer {taken}").status == 200
            # She cannot work any more, asks, and the whole family goes.
            assert code(api.ask("GET", "/v1/devices", by="gerda")) == (401, "E-TOKEN-REVOKED")
            first = api.tokens["gerda"].split("_")[1]
            body = {"reason": "stolen", "id": first}
            api.ask("POST", "/v1/access-tokens/gerda/revoke", by="alice", body=body)
            assert code(with_header(api, f"Bearer {taken}")) == (401, "E-TOKEN-REVOKED")

    def test_that_meets_the_revocation_of_its_token_makes_no_successor(
        self, api: RunningApi, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The door has let the request in; then an operator revokes the token."""
        api.admit(Role.OPERATOR, "racer")
        entered, revoked = threading.Event(), threading.Event()

        def held_up() -> Token:
            entered.set()
            assert revoked.wait(60)
            return new_token()

        monkeypatch.setattr("mailboat_controller.api.access_tokens.new_token", held_up)
        with ThreadPoolExecutor(1) as pool:
            renewal = pool.submit(api.ask, "POST", "/v1/access-tokens/self/renew", by="racer")
            assert entered.wait(60)
            body = {"reason": "laptop stolen"}
            assert api.ask("POST", "/v1/access-tokens/racer/revoke", by="alice", body=body).json
            revoked.set()
            answer = renewal.result(60)

        assert code(answer) == (401, "E-TOKEN-REVOKED")
        with api.store.read() as tx:
            of_racer = [row for row in access_tokens.every(tx) if row.name == "racer"]
        assert [row.in_force(api.now()) for row in of_racer] == [False]

    def test_does_not_come_oftener_than_daily_for_a_year(
        self, api: RunningApi, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each leaves an entry in the audit log, which is never emptied."""
        monkeypatch.setattr(access_tokens, "RENEWALS_MAX", 5)
        api.admit(Role.VIEWER, "busy")
        for _ in range(5):
            answer = api.ask("POST", "/v1/access-tokens/self/renew", by="busy")
            assert answer.status == 201
            api.tokens["busy"] = answer.json["token"]
            assert api.ask("GET", "/v1/devices", by="busy").status == 200

        answer = api.ask("POST", "/v1/access-tokens/self/renew", by="busy")
        assert code(answer) == (409, "E-CONFLICT")
        assert api.ask("GET", "/v1/devices", by="busy").status == 200

    def test_keeps_name_and_role(self, api: RunningApi) -> None:
        api.admit(Role.VIEWER, "hans", days=10)
        with days_later(api, 1):
            api.tokens["hans"] = renew(api, "hans")["token"]
            own = api.ask("GET", "/v1/access-tokens/self", by="hans").json

            assert (own["name"], own["role"]) == ("hans", "viewer")
            assert api.ask("GET", "/v1/access-tokens", by="hans").status == 403

    def test_is_refused_once_it_has_ended(self, api: RunningApi) -> None:
        api.admit(Role.VIEWER, "ida", days=1)
        with days_later(api, 2):
            answer = api.ask("POST", "/v1/access-tokens/self/renew", by="ida")

        assert code(answer) == (401, "E-TOKEN-EXPIRED")

    def test_goes_on_for_a_year_and_then_somebody_looks_again(self, api: RunningApi) -> None:
        api.admit(Role.VIEWER, "jost", days=90)
        for day in (80, 160, 240, 320):
            with days_later(api, day):
                api.tokens["jost"] = renew(api, "jost")["token"]
                assert api.ask("GET", "/v1/devices", by="jost").status == 200
        with days_later(api, 330):
            answer = api.ask("POST", "/v1/access-tokens/self/renew", by="jost")
            assert code(answer) == (409, "E-CONFLICT")
        with days_later(api, 365):
            assert api.ask("GET", "/v1/devices", by="jost").status == 401


def test_use_is_noted_once_an_hour(api: RunningApi) -> None:
    api.admit(Role.VIEWER, "karl")
    token_id = api.tokens["karl"].split("_")[1]

    def used() -> Any:
        with api.store.read() as tx:
            row = access_tokens.by_id(tx, token_id)
        assert row is not None
        return row.last_used_at

    assert used() is None
    api.ask("GET", "/v1/devices", by="karl")
    first = used()
    with days_later(api, 0.5 / 24):
        api.ask("GET", "/v1/devices", by="karl")
        assert used() == first
    with days_later(api, 1.1 / 24):
        api.ask("GET", "/v1/devices", by="karl")
        assert used() > first


class TestFailedLogins:
    def test_are_counted_by_code(self, own_api: RunningApi) -> None:
        before = own_api.refused.copy()
        own_api.ask("GET", "/v1/devices")
        with_header(own_api, "Bearer x")
        own_api.ask("GET", "/v1/access-tokens", by="vera")

        assert own_api.refused - before == {
            "E-IDENTITY-REQUIRED": 1,
            "E-TOKEN-MALFORMED": 1,
            "E-NOT-PERMITTED": 1,
        }

    def test_with_an_id_that_nobody_has_leave_no_entry(self, own_api: RunningApi) -> None:
        before = audited(own_api, "access_token.refuse")
        with_header(own_api, f"Bearer {new_token().text()}")

        assert audited(own_api, "access_token.refuse") == before

    def test_with_a_known_id_are_audited_up_to_a_bound(self, own_api: RunningApi) -> None:
        """Guessing at one id: each guess is counted, the audit log does not grow for ever."""
        prefix, before = own_api.tokens["vera"].rpartition("_")[0], own_api.refused.copy()
        for _ in range(AUDITED_PER_MINUTE + 5):
            with_header(own_api, f"Bearer {prefix}_{secrets.token_hex(32)}")

        entries = audited(own_api, "access_token.refuse")
        assert len(entries) == AUDITED_PER_MINUTE
        assert entries[0].subject == f"token:{prefix.removeprefix('mbt_')}"
        assert entries[0].details == {"code": "E-TOKEN-INVALID", "address": "127.0.0.1"}
        assert (own_api.refused - before)["E-TOKEN-INVALID"] == AUDITED_PER_MINUTE + 5


class TestSubmissions:
    @staticmethod
    def submit(api: RunningApi, by: str, *roles: str) -> Answer:
        content = encode(Submission(fleet=FLEET, roles=dict.fromkeys(roles, b"{}")))
        headers = {"Content-Type": "application/vnd.msgpack"}
        return api.ask("POST", "/v1/submissions", by=by, body=content, headers=headers)

    @pytest.mark.parametrize(
        ("by", "roles", "allowed"),
        [
            ("paul", ["approval-vad"], True),
            ("paul", ["release-vad"], False),
            ("paul", ["approval-vad", "release-vad"], False),
            ("alice", ["release-vad"], True),
            ("alice", ["approval-vad"], False),
            ("alice", ["approval-vad", "release-vad"], False),
            ("build", ["approval-vad", "release-vad"], True),
            ("vera", ["approval-vad"], False),
        ],
    )
    def test_come_from_whom_their_roles_are_for(
        self, api: RunningApi, by: str, roles: list[str], allowed: bool
    ) -> None:
        answer = self.submit(api, by, *roles)

        # Whoever may hand them in hears what admission says of `{}`.
        assert (answer.status == 422) == allowed, answer.content
        assert (answer.status == 403) == (not allowed), answer.content

    def test_that_are_none_are_answered_as_ever(self, api: RunningApi) -> None:
        headers = {"Content-Type": "application/vnd.msgpack"}
        answer = api.ask("POST", "/v1/submissions", by="paul", body=b"nonsense", headers=headers)

        assert (answer.status, answer.json["status"]) == (422, "rejected")

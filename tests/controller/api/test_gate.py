"""How often somebody may ask: those we know by who they are, everybody else by their address."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from mailboat_controller.access.people import new_token
from mailboat_controller.api.gate import SPREAD_SECONDS, _source
from running_api import Answer, RunningApi, running_api


@pytest.fixture
def strict(tmp_path: Path) -> Iterator[RunningApi]:
    """Next to nothing comes back while a test runs, so what is counted is the burst."""
    with running_api(
        tmp_path,
        rate_known_per_second=0.01,
        rate_known_burst=20,
        rate_stranger_per_second=0.01,
        rate_stranger_burst=10,
        rate_refused_per_minute=3,
    ) as api:
        yield api


def limited(answer: Answer) -> bool:
    if answer.status != 429:
        return False
    assert answer.json["code"] == answer.headers["mailboat-error-code"] == "E-RATE-LIMITED"
    assert int(answer.headers["retry-after"]) >= 1
    return True


def test_a_stranger_is_held_off_and_told_for_how_long(strict: RunningApi) -> None:
    answers = [strict.ask("GET", "/healthz") for _ in range(12)]

    assert [limited(answer) for answer in answers] == [False] * 10 + [True] * 2
    assert 100 <= int(answers[-1].headers["retry-after"]) <= 100 + SPREAD_SECONDS
    assert strict.refused["E-RATE-LIMITED"] == 2


def test_whoever_is_known_does_not_suffer_from_strangers_at_the_same_address(
    strict: RunningApi,
) -> None:
    strict.enrol("cam-1")
    while not limited(strict.ask("POST", "/v1/enrol", body={})):
        pass

    for who in ("alice", "wall", "cam-1"):
        assert not limited(strict.ask("GET", "/v1/trust/root", by=who))


def test_devices_behind_one_address_have_a_rate_each(strict: RunningApi) -> None:
    token = strict.kit(uses=3)["token"]
    for name in ("cam-1", "cam-2", "cam-3"):
        strict.enrol(name, token=token)

    asked = [
        limited(strict.ask("GET", "/v1/trust/root", by=name))
        for _ in range(20)
        for name in ("cam-1", "cam-2", "cam-3")
    ]
    assert not any(asked)
    assert limited(strict.ask("GET", "/v1/trust/root", by="cam-1"))


def test_a_guesser_is_held_off_and_nobody_else_at_the_address(strict: RunningApi) -> None:
    def guess() -> Answer:
        headers = {"Authorization": f"Bearer {new_token().text()}"}
        return strict.ask("GET", "/v1/devices", headers=headers)

    assert [limited(guess()) for _ in range(5)] == [False] * 3 + [True] * 2
    assert strict.ask("GET", "/v1/devices", by="alice").status == 200


def test_more_names_in_the_same_second_do_not_make_a_refusal_cheaper(strict: RunningApi) -> None:
    """A token in the address, a malformed one and a wrong one fill the same bucket."""
    answers = [
        strict.ask("GET", "/v1/info?token=x"),
        strict.ask("GET", "/v1/devices", headers={"Authorization": "Bearer x"}),
        strict.ask("GET", "/v1/devices", headers={"Authorization": "Basic x"}),
        strict.ask("GET", "/v1/info?token=x"),
    ]

    assert [answer.status for answer in answers] == [400, 401, 401, 429]


def test_a_body_is_read_before_its_sender_is_refused(strict: RunningApi) -> None:
    """Else a client that still sends sees a broken pipe in place of the answer."""
    while not limited(strict.ask("POST", "/v1/enrol", body=b"{}")):
        pass

    assert limited(strict.ask("POST", "/v1/enrol", body=b" " * 4_000_000))


def test_a_fleet_behind_one_address_may_enrol_and_come_back_at_once(tmp_path: Path) -> None:
    """The defaults: a thousand newcomers pass before anybody is asked to wait."""
    with running_api(tmp_path) as api:
        assert api.settings.rate_stranger_burst >= 1000
        assert api.settings.rate_known_burst >= 100


@pytest.mark.parametrize(
    ("client", "counted_as"),
    [
        (("192.0.2.7", 1), "192.0.2.7"),
        (("2001:db8:1:2:3:4:5:6", 1), "2001:db8:1:2::/64"),
        (("2001:db8:1:2::9", 1), "2001:db8:1:2::/64"),
        (("::ffff:192.0.2.7", 1), "192.0.2.7"),
        (None, ""),
    ],
)
def test_an_address_is_counted_as_the_least_that_anybody_is_given(
    client: tuple[str, int] | None, counted_as: str
) -> None:
    assert _source({"client": client}) == counted_as

"""People hear of an expiry long before it stops an install."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mailboat_controller.authority.roles import valid_for
from mailboat_controller.pki.issuing import Authority
from mailboat_controller.trust import expiry
from mailboat_controller.trust.expiry import Level, certificate_statuses, role_statuses
from mailboat_controller.trust.role_files import read_roles
from mailboat_schemas.errors import ConfigurationInvalid
from trust_fleet import TrustFleet

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
# By role: days before the end when it becomes a concern, and when it becomes urgent.
WARNINGS = {
    "root": (60, 14),
    "targets": (60, 14),
    "release-vad": (60, 14),
    "policy": (60, 14),
    "config": (60, 14),
    "approval-vad": (10, 3),
    "snapshot": (7, 2),
    "timestamp": (3, 1),
}


@pytest.fixture(scope="module")
def roles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    fleet = TrustFleet(tmp_path_factory.mktemp("trust") / "keys", now=NOON)
    return read_roles(fleet.directory)


def level(roles: dict[str, bytes], role: str, now: datetime) -> Level:
    return {each.role: each.level for each in role_statuses(roles, now)}[role]


def test_every_role_that_expires_has_its_warning(roles: dict[str, bytes]) -> None:
    assert roles.keys() == WARNINGS.keys()


@pytest.mark.parametrize(("role", "soon", "urgent"), [(r, *days) for r, days in WARNINGS.items()])
def test_a_warning_begins_on_its_day_and_not_a_second_before(
    roles: dict[str, bytes], role: str, soon: int, urgent: int
) -> None:
    end = next(each.expires for each in role_statuses(roles, NOON) if each.role == role)
    second = timedelta(seconds=1)

    def at(left: timedelta) -> Level:
        return level(roles, role, end - left)

    assert at(timedelta(days=soon) + second) is Level.OK
    assert at(timedelta(days=soon)) is Level.SOON
    assert at(timedelta(days=urgent) + second) is Level.SOON
    assert at(timedelta(days=urgent)) is Level.URGENT
    assert at(second) is Level.URGENT
    assert at(timedelta(0)) is Level.EXPIRED


@pytest.mark.parametrize("role", ["root", "targets", "release-vad", "approval-vad"])
def test_nothing_people_sign_needs_them_on_its_first_day(
    roles: dict[str, bytes], role: str
) -> None:
    assert WARNINGS[role][0] < valid_for(role).days
    assert level(roles, role, NOON) is Level.OK


def test_a_role_says_who_may_sign_it_and_what_to_do(roles: dict[str, bytes]) -> None:
    now = NOON + timedelta(days=25, hours=1)
    found = {each.role: each for each in role_statuses(roles, now)}
    approval = found["approval-vad"]

    assert (approval.level, approval.days_left, approval.threshold) == (Level.SOON, 4, 1)
    assert approval.keys[0].startswith("vad approver (")
    assert approval.next_step == "mailboat trust renew approval-vad --key KEY"
    assert found["timestamp"].days_left == -19
    assert "log" in found["timestamp"].next_step
    assert found["root"].next_step == ""
    assert expiry.needs_attention(tuple(found.values()))


def test_the_log_names_what_needs_somebody_and_nothing_else(
    roles: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    expiry.warn(roles, NOON)
    assert capsys.readouterr().out == ""
    expiry.warn(roles, NOON + timedelta(days=25))

    said = capsys.readouterr().out
    assert "approval-vad" in said
    assert "policy" not in said


def test_what_ends_first_comes_first(roles: dict[str, bytes]) -> None:
    assert role_statuses(roles, NOON)[0].role == "timestamp"


def test_without_a_root_nothing_can_be_said(roles: dict[str, bytes]) -> None:
    with pytest.raises(ConfigurationInvalid):
        role_statuses({"targets": roles["targets"]}, NOON)
    with pytest.raises(ConfigurationInvalid):
        role_statuses({**roles, "policy": b"{}"}, NOON)


@pytest.mark.parametrize(
    ("name", "days", "expected"),
    [
        ("ca", 0, Level.OK),
        ("ca", 19 * 365, Level.SOON),
        ("ca", 20 * 365 - 100, Level.URGENT),
        ("server", 0, Level.OK),
        ("server", 380, Level.SOON),
        ("server", 395, Level.URGENT),
        ("server", 398, Level.EXPIRED),
    ],
)
def test_certificates_have_warnings_too(
    tmp_path: Path, name: str, days: int, expected: Level
) -> None:
    authority = Authority.create(tmp_path, "demo", now=NOON)
    content = {
        "ca": authority.ca_pem,
        "server": authority.issue_server(["localhost"], now=NOON).certificate,
    }[name]

    (found,) = certificate_statuses({name: content}, NOON + timedelta(days=days))

    assert found.level is expected
    assert bool(found.next_step) is (expected is not Level.OK)

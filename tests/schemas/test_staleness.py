"""How far behind a device is, and when that is too far."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mailboat_schemas.plan import Plan, PlanWave
from mailboat_schemas.policy_rules import Staleness
from mailboat_schemas.staleness import (
    NOT_STALE,
    Action,
    Approved,
    Behind,
    done_about_it,
    enforcement,
    how_far_behind,
)

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
WAVES = (PlanWave(cap_ppm=1_000_000),)


def approved(
    version: str, security_version: int = 0, *, at: datetime = NOON, classes: tuple[str, ...] = ()
) -> Approved:
    plan = Plan(rollout="r", waves=WAVES, hardware_classes=classes)
    seconds = int(at.timestamp())
    return Approved(version=version, security_version=security_version, at=seconds, plan=plan)


NO_BOUND = Staleness()


def behind(
    serving: str, *fleet: Approved, bound: Staleness = NO_BOUND, now: datetime = NOON
) -> Behind:
    return how_far_behind("vad", serving, fleet, bound, hardware_class="kiosk", now=now)


def test_minor_versions_are_counted_as_they_were_approved_and_patches_are_not() -> None:
    fleet = [approved(v) for v in ("1.0.0", "1.0.9", "1.2.0", "1.2.5", "1.9.0", "2.0.0")]

    assert behind("1.0.0", *fleet).minor_versions == 3
    assert behind("2.0.0", *fleet).minor_versions == 0
    assert behind("1.9.0", *fleet, approved("1.10.0")).minor_versions == 2


@pytest.mark.parametrize(("most", "is_broken"), [(0, True), (1, True), (2, False)])
def test_more_minor_versions_behind_than_allowed_break_the_bound(
    most: int, is_broken: bool
) -> None:
    bound = Staleness(minor_versions_behind_max=most)
    found = behind("1.0.0", approved("1.0.0"), approved("1.1.0"), approved("1.2.0"), bound=bound)

    assert bool(found.broken) == is_broken


def test_a_security_release_has_its_hours_from_the_first_that_was_approved() -> None:
    fleet = (approved("1.0.0", 1), approved("1.0.1", 2), approved("1.0.2", 3, at=NOON + 20 * HOUR))
    bound = Staleness(security_within_hours=24)

    assert not behind("1.0.0", *fleet, bound=bound, now=NOON + 24 * HOUR).broken
    late = behind("1.0.0", *fleet, bound=bound, now=NOON + 25 * HOUR)
    assert late.broken == (
        "a higher security version was approved 2026-11-21 12:00 UTC, 24 h are allowed",
    )
    assert not behind("1.0.2", *fleet, bound=bound, now=NOON + 999 * HOUR).broken


def test_what_the_plan_does_not_have_for_a_class_does_not_make_it_stale() -> None:
    bound = Staleness(minor_versions_behind_max=0, security_within_hours=1)
    other = approved("1.1.0", 9, classes=("other",))

    assert not behind("1.0.0", approved("1.0.0"), other, bound=bound, now=NOON + 99 * HOUR).broken


def test_a_release_of_an_approval_that_says_no_hour_counts_from_the_beginning() -> None:
    since = approved("1.0.1", 1, at=datetime(1970, 1, 1, tzinfo=UTC))
    found = behind("1.0.0", approved("1.0.0"), since, bound=Staleness(security_within_hours=24))

    assert found.broken


def test_a_pre_release_that_serves_is_behind_what_it_led_to() -> None:
    bound = Staleness(security_within_hours=1)
    found = behind("1.1.0-rc.1", approved("1.1.0", 1), bound=bound, now=NOON + 2 * HOUR)

    assert found.broken


@pytest.mark.parametrize(
    ("bound", "hours_since", "action", "words"),
    [
        ({}, 0, Action.REPORT, ""),
        ({"enforce": "warn"}, 999, Action.WARN, "answers are marked"),
        (
            {"enforce": "stop", "grace_hours": 5},
            4,
            Action.WARN,
            "answers are marked; it is served ",
        ),
        ({"enforce": "stop", "grace_hours": 5}, 5, Action.STOP, "not served until "),
        (
            {"enforce": "stop", "grace_hours": 5},
            -1,
            Action.WARN,
            "answers are marked; it is served ",
        ),
        ({"enforce": "stop", "grace_hours": 0}, 0, Action.STOP, "not served until "),
    ],
    ids=["report", "warn", "in the grace", "after it", "found in the future", "no grace"],
)
def test_what_policy_does_about_a_stale_model_counts_from_when_it_was_found(
    bound: dict[str, Any], hours_since: int, action: Action, words: str
) -> None:
    bounds = Staleness(minor_versions_behind_max=0, **bound)
    far = behind("1.0.0", approved("1.1.0"), bound=bounds)
    since = int((NOON - hours_since * HOUR).timestamp())

    found = enforcement(far, bounds, since, NOON)

    assert found.action is action
    assert done_about_it(found).startswith(words)
    assert bool(done_about_it(found)) == bool(words)
    assert enforcement(behind("1.1.0", approved("1.1.0"), bound=bounds), bounds, since, NOON) == (
        NOT_STALE
    )


def test_one_that_was_never_found_before_has_its_whole_grace() -> None:
    bounds = Staleness(minor_versions_behind_max=0, enforce="stop", grace_hours=5)

    found = enforcement(behind("1.0.0", approved("1.1.0"), bound=bounds), bounds, 0, NOON)

    assert (found.action, found.stops_at) == (Action.WARN, NOON + 5 * HOUR)

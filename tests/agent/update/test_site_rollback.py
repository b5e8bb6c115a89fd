"""Where a site's order leads a device, and where it never does."""

from dataclasses import replace
from datetime import timedelta

import pytest

from mailboat_agent.update.decide import decide
from mailboat_agent.update.site_rollback import site_pins
from mailboat_agent.update.situation import Known, Situation
from mailboat_agent.update.state import ModelState
from mailboat_agent.update.steps import GoBack, Keep, Step
from mailboat_schemas.device_orders import Hold
from mailboat_schemas.policy_rules import Rules
from mailboat_schemas.reports import ModelPhase
from mailboat_schemas.site_orders import ReportedSiteOrder, SiteRollback, holds_of
from situations import FILE, NOON, RUNS_A, A, B, C, assigned, installed, known, situation, soaking

LATER = int((NOON + timedelta(hours=1)).timestamp())
ALL_HERE = (A, B, C, FILE)
RUNS_B = ModelState(
    phase=ModelPhase.COMMITTED, active=installed(B), previous=installed(A), install=2
)


def ordered(found: Situation, version: str, **facts: object) -> Situation:
    """As the agent asks: what the site says, and where it leads here."""
    back = SiteRollback(model="vad", version=version, reason="it is deaf", expires=LATER)
    said = ReportedSiteOrder(site="harbour", counter=1, key="desk", rollbacks=(back,))
    held = replace(found.facts, site_holds=holds_of(said), **facts)  # type: ignore[arg-type]
    found = replace(found, facts=held)
    return replace(found, facts=replace(held, site_pins=site_pins(found, said, NOON)))


def runs_b(**standings: Known) -> Situation:
    return situation(
        RUNS_B,
        assigned(current=C),
        held=ALL_HERE,
        standings={A: standings["a"]} if "a" in standings else None,
    )


def step_to(version: str, found: Situation) -> Step:
    return decide(ordered(found, version), NOON)


def test_a_device_goes_back_to_what_it_ran_before() -> None:
    step = step_to("1.0.0", runs_b())

    assert isinstance(step, GoBack)
    assert (step.to, step.code) == (installed(A), "site_order")
    assert "site harbour (desk): it is deaf" in step.because


def test_a_device_that_runs_it_stays_although_something_newer_is_current() -> None:
    assert isinstance(step_to("2.0.0", runs_b()), Keep)
    assert isinstance(step_to("1.0.0", situation(RUNS_A, assigned(current=B))), Keep)


@pytest.mark.parametrize(
    ("version", "found"),
    [
        ("3.0.0", runs_b()),
        ("2.0.0", situation(RUNS_A, assigned(current=B))),
        (
            "2.0.0",
            situation(replace(RUNS_B, active=installed(A), previous=installed(B)), held=ALL_HERE),
        ),
        ("0.9.0", runs_b()),
        ("1.0.0", runs_b(a=known(A, approved=False))),
        ("1.0.0", replace(runs_b(), state=replace(RUNS_B, security_version=1))),
        ("1.0.0", situation(RUNS_B, assigned(current=C), held=(B, C, "f" * 64))),
    ],
    ids=[
        "forward",
        "forward, to what is current",
        "forward, to what ran before",
        "unknown",
        "withdrawn",
        "a lower security version",
        "not on the disk",
    ],
)
def test_where_it_does_not_lead_the_model_is_held(version: str, found: Situation) -> None:
    asked = ordered(found, version)

    assert asked.facts.site_pins == ()
    assert asked.facts.hold_of("vad", C, NOON) is not None
    step = decide(asked, NOON)
    assert not isinstance(step, GoBack)


def test_an_install_of_something_newer_is_given_up_for_it() -> None:
    step = step_to("1.0.0", situation(soaking(B, previous=A), assigned(offer=B), held=ALL_HERE))

    assert isinstance(step, GoBack)
    assert step.to == installed(A)


def test_a_hold_of_the_centre_or_of_a_policy_keeps_a_site_from_going_back() -> None:
    hold = Hold(by="operator:ana", reason="as it is", expires=LATER)

    for facts in ({"holds": (hold,)}, {"rules": Rules(hold="inventory")}):
        assert isinstance(decide(ordered(runs_b(), "1.0.0", **facts), NOON), Keep)


@pytest.mark.parametrize(
    "centre",
    [
        {"holds": (Hold(by="operator:ana", reason="as it is", expires=LATER),)},
        {"rules": Rules(hold="inventory")},
    ],
)
def test_a_hold_of_the_centre_leaves_a_device_where_its_site_brought_it(
    centre: dict[str, object],
) -> None:
    """Without the hold it would stay; a hold must not send it to what the site has left."""
    went_back = replace(RUNS_A, previous=installed(B))
    found = situation(went_back, assigned(current=B), held=ALL_HERE)

    assert isinstance(decide(found, NOON), GoBack)
    assert isinstance(decide(ordered(found, "1.0.0", **centre), NOON), Keep)
    soaks = situation(soaking(B, previous=A), assigned(offer=B), held=ALL_HERE)
    assert not isinstance(decide(ordered(soaks, "1.0.0", **centre), NOON), GoBack)


def test_once_it_has_ended_the_device_follows_what_is_current() -> None:
    asked = ordered(situation(RUNS_A, assigned(current=B)), "1.0.0")

    assert isinstance(decide(asked, NOON), Keep)
    assert not isinstance(decide(asked, NOON + timedelta(hours=2)), Keep)

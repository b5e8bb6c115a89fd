"""The gate as it is written and as it is signed; what cannot be met is refused, never open."""

from typing import Any

import pytest
from pydantic import ValidationError

from mailboat_schemas.documents.rollout import Rollout
from mailboat_schemas.documents.rollout_gate import Gate, GateKind
from mailboat_schemas.errors import SignatureInvalid
from mailboat_schemas.gate_terms import terms_of
from mailboat_schemas.plan import CUSTOM_KEY, Plan

STATISTICAL = {"kind": "statistical"}


def rollout(*waves: dict[str, Any]) -> Rollout:
    return Rollout.model_validate(
        {
            "apiVersion": "mailboat/v1",
            "kind": "Rollout",
            "metadata": {"name": "r"},
            "spec": {"release": {"model": "m", "version": "1.0.0"}, "waves": waves},
        }
    )


def gate(**fields: Any) -> Gate:
    return rollout({"percent": 10, "gate": fields}).spec.waves[0].gate


def signed(**changes: Any) -> dict[str, Any]:
    terms = terms_of(Gate(kind=GateKind.STATISTICAL))
    assert terms is not None
    content = {**terms.model_dump(mode="json"), **changes}
    return {name: value for name, value in content.items() if value is not None}


def test_a_gate_that_says_nothing_asks_everybody_and_one_with_ok_min_counts() -> None:
    assert gate().rule is GateKind.EVERY
    assert gate(ok_min=3).rule is GateKind.COUNT
    assert gate(kind="statistical").rule is GateKind.STATISTICAL


def test_what_a_statistical_gate_leaves_out_is_written_into_the_plan() -> None:
    assert signed() == {
        "kind": "statistical",
        "p0_ppm": 10_000,
        "q_ppm": 300_000,
        "p1_ppm": 100_000,
        "alpha_ppm": 10_000,
        "beta_ppm": 10_000,
        "silence_ppm": 70_000,
        "verdict_seconds": 86_400,
        "soak_seconds": 43_200,
        "look_seconds": 21_600,
        "looks": 5,
        "control": False,
        "latency_ratio_ppm": 0,
    }


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "statistical", "p1": 0},
        {"kind": "statistical", "p1": -1},
        {"kind": "statistical", "p1": 100},
        {"kind": "statistical", "p1": float("nan")},
        {"kind": "statistical", "p1": "ten percent"},
        {"kind": "statistical", "p1": 1},  # p0 is 1 as well
        {"kind": "statistical", "p0": 12},
        {"kind": "statistical", "silence": 40},
        {"kind": "statistical", "silence": 0.5},
        {"kind": "statistical", "q": 100},
        {"kind": "statistical", "beta": 0},
        {"kind": "statistical", "looks": 0},
        {"kind": "statistical", "looks": 17},
        {"kind": "statistical", "ok_min": 3},
        {"kind": "statistical", "wait_max_hours": 11},
        {"kind": "statistical", "latency_p95_ratio_max": 1},
        {"kind": "count"},
        {"kind": "every", "p1": 10},
        {"kind": "best"},
        {"ok_min": 0},
        {"threshold": 3},
    ],
)
def test_a_threshold_that_cannot_be_met_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        gate(**fields)


@pytest.mark.parametrize(
    "changes",
    [
        {"p1_ppm": None},
        {"p1_ppm": 10_000},
        {"p1_ppm": 0.1},
        {"beta_ppm": 0},
        {"kind": "lenient"},
        {"looks": 0},
        {"latency_ratio_ppm": 900_000},
    ],
)
def test_an_approval_with_such_a_gate_is_no_readable_plan(changes: dict[str, Any]) -> None:
    wave = {"count": 200, "gate": signed(**changes)}

    with pytest.raises(SignatureInvalid):
        Plan.from_custom({CUSTOM_KEY: {"rollout": "r", "waves": [wave]}})


def test_with_a_control_group_the_first_look_is_later_than_a_verdict_takes() -> None:
    terms = terms_of(Gate(kind=GateKind.STATISTICAL, control=True, verdict_within_hours=6))

    assert terms is not None
    assert terms.soak_seconds == 18 * 3600


def test_a_plan_is_read_as_it_was_signed() -> None:
    wave = {"count": 200, "gate": signed(), "wait_max": 86_400}
    plan = Plan.from_custom({CUSTOM_KEY: {"rollout": "r", "waves": [{"count": 3}, wave]}})

    assert Plan.from_custom(plan.to_custom()) == plan
    assert "gate" not in plan.to_json()["waves"][0]


def test_waves_that_shrink_are_refused() -> None:
    rollout({"devices": 5}, {"devices": 5}, {"percent": 1}, {"percent": 100})
    rollout({"percent": 50, "ring": {"lab": "yes"}}, {"percent": 10})
    with pytest.raises(ValidationError, match="who is in stays in"):
        rollout({"percent": 20}, {"devices": 7}, {"percent": 10})


def test_the_gates_of_one_rollout_make_one_promise() -> None:
    rollout(
        {"pilots": ["a"]}, {"percent": 5, "gate": STATISTICAL}, {"percent": 9, "gate": STATISTICAL}
    )
    with pytest.raises(ValidationError, match="every wave has one"):
        rollout({"percent": 5, "gate": STATISTICAL}, {"percent": 9})
    with pytest.raises(ValidationError, match="share p0, q, p1"):
        rollout(
            {"percent": 5, "gate": STATISTICAL}, {"percent": 9, "gate": {**STATISTICAL, "p1": 5}}
        )

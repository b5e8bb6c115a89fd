"""What a release may declare of its trial and its code, and what it may not."""

from typing import Any

import pytest
from pydantic import ValidationError

from mailboat_schemas.documents.health import Health
from mailboat_schemas.documents.interface import Interface
from mailboat_schemas.documents.pipeline import Pipeline, problem_with_code
from mailboat_schemas.documents.trial_gates import (
    Bounds,
    GoldenMetric,
    MetricGate,
    RelativeGates,
)

TENSOR = {"dtype": "float32", "shape": [-1, 4]}
XY = Interface.model_validate(
    {"inputs": [TENSOR | {"name": "x"}], "outputs": [TENSOR | {"name": "y"}]}
)
BOTH = Pipeline(model_interface=XY, preprocess="before", postprocess="behind")


def test_a_gate_that_is_not_declared_leaves_no_trace_in_the_signed_bytes() -> None:
    """Documents from before these fields existed keep their digest."""
    written = Health().model_dump(mode="json")

    assert {"metrics", "batches", "relative", "check", "shadow"}.isdisjoint(written)
    declared: dict[str, Any] = {
        "metrics": {"y": {"metric": "cosine", "at_least": 0.9}},
        "batches": [{"size": 4}],
        "relative": {"agreement_min": 1},
        "check": {},
    }
    assert declared.keys() <= Health(**declared).model_dump(mode="json").keys()


@pytest.mark.parametrize("metric", list(GoldenMetric))
def test_a_metric_has_the_bound_that_fits_it_and_no_other(metric: GoldenMetric) -> None:
    right, wrong = ("at_least", "at_most")
    if metric is GoldenMetric.RELATIVE_ERROR:
        right, wrong = wrong, right

    MetricGate.model_validate({"metric": metric, right: 0.5})
    for bounds in ({wrong: 0.5}, {}, {right: 0.5, wrong: 0.5}):
        with pytest.raises(ValidationError, match="relative-error has an at_most"):
            MetricGate.model_validate({"metric": metric, **bounds})


def test_a_gate_that_bounds_nothing_is_a_mistake() -> None:
    with pytest.raises(ValidationError):
        RelativeGates()
    with pytest.raises(ValidationError):
        Bounds()
    with pytest.raises(ValidationError):
        Pipeline(model_interface=XY)


@pytest.mark.parametrize(
    ("pipeline", "roles"),
    [
        (None, ["model", "preprocess"]),
        (BOTH, ["model", "preprocess"]),
        (BOTH, ["model", "preprocess", "postprocess", "postprocess"]),
        (None, ["model", "check", "check"]),
    ],
)
def test_code_and_its_files_come_together(pipeline: Pipeline | None, roles: list[str]) -> None:
    assert problem_with_code(pipeline, roles)


def test_code_that_is_named_and_there_is_no_problem() -> None:
    assert problem_with_code(BOTH, ["model", "preprocess", "postprocess", "check"]) is None
    assert problem_with_code(None, ["model", "golden", "labels"]) is None

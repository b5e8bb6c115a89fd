import json
from typing import Any

import pytest
from pydantic import ValidationError

from mailboat_schemas.documents.degraded_policy import (
    VALUES_MAX,
    DegradedPolicy,
    FallbackOutput,
)
from mailboat_schemas.documents.interface import Interface
from mailboat_schemas.documents.release import ReleaseDocument
from mailboat_schemas.documents.serving_policy import ServingPolicy
from trust_fleet import document

INTERFACE = Interface.model_validate(
    {
        "inputs": [{"name": "x", "dtype": "float32", "shape": [-1, 4]}],
        "outputs": [
            {"name": "label", "dtype": "string", "shape": [-1]},
            {"name": "scores", "dtype": "float32", "shape": [-1, 3]},
        ],
    }
)
LABEL = {"name": "label", "dtype": "string", "shape": [-1], "values": ["unknown"]}
SCORES = {"name": "scores", "dtype": "float32", "shape": [-1, 3], "values": [0, 0, 0.5]}


def policy(*outputs: dict[str, Any], **more: Any) -> DegradedPolicy:
    fallback = {"fallback": {"outputs": outputs}} if outputs else {}
    return DegradedPolicy.model_validate(fallback | more)


def test_what_is_not_given_is_not_in_the_document() -> None:
    assert "degraded" not in ServingPolicy().model_dump(mode="json")
    given = ServingPolicy.model_validate({"degraded": {"inputs_stay_on_device": True}})
    assert given.model_dump(mode="json")["degraded"] == {"inputs_stay_on_device": True}
    assert ServingPolicy.model_validate(given.model_dump(mode="json")) == given


def test_a_rule_that_is_what_callers_rely_on_fits() -> None:
    assert policy(LABEL, SCORES).problem_with(INTERFACE) is None


@pytest.mark.parametrize(
    "unfit",
    [
        policy(LABEL),
        policy(LABEL, SCORES, SCORES | {"name": "more"}),
        policy(LABEL, SCORES | {"dtype": "float64"}),
        policy(LABEL, SCORES | {"shape": [-1, 2], "values": [0, 0]}),
        policy(LABEL, SCORES | {"shape": [3]}),
        policy(confidence={"output": "label", "threshold": 0.5}),
        policy(confidence={"output": "nothing", "threshold": 0.5}),
    ],
)
def test_a_release_whose_degraded_answers_do_not_fit_its_interface_is_none(
    unfit: DegradedPolicy,
) -> None:
    assert unfit.problem_with(INTERFACE) is not None
    content = document("1.0.0").model_dump(mode="json")
    content["interface"] = INTERFACE.model_dump(mode="json")
    content["variants"][0]["serving"] = {"degraded": unfit.model_dump(mode="json")}

    with pytest.raises(ValidationError, match=r"confidence|fallback"):
        ReleaseDocument.model_validate(content)


@pytest.mark.parametrize(
    "wrong",
    [
        {"shape": [-1, 2]},
        {"shape": [3, -1]},
        {"dtype": "int8", "values": [0, 0, 128]},
        {"dtype": "int8", "values": [0, 0, 0.5]},
        {"dtype": "uint8", "values": [0, 0, -1]},
        {"dtype": "bool", "values": [0, 1, 0]},
        {"dtype": "string", "values": [0, 1, 0]},
        {"dtype": "float16", "values": [0, 0, 65_505]},
        {"values": [0, 0, "0"]},
        {"values": [0, 0, True]},
        {"values": [0] * (VALUES_MAX + 1), "shape": [VALUES_MAX + 1]},
    ],
)
def test_values_that_do_not_fill_their_shape_and_type_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        FallbackOutput.model_validate(SCORES | wrong)


def test_infinity_is_no_value_of_a_rule() -> None:
    text = json.dumps(SCORES).replace("0.5", "1e999")

    with pytest.raises(ValidationError):
        FallbackOutput.model_validate_json(text)


def test_an_output_is_given_once() -> None:
    with pytest.raises(ValidationError, match="twice"):
        policy(LABEL, LABEL)

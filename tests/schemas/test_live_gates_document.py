"""What a release document may ask of live traffic."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from mailboat_schemas.documents.health import Health, Soak
from mailboat_schemas.documents.live_gates import COUNTERS_MAX, CounterGate, DriftGate
from mailboat_schemas.documents.release import ReleaseDocument
from trust_fleet import document

NAN, INF = float("nan"), float("inf")
FILE = {"path": "m.onnx", "role": "model", "sha256": "ab" * 32, "length": 4}
REFERENCE = {"path": "r.json", "role": "reference", "sha256": "cd" * 32, "length": 4}


def with_health(health: dict[str, Any], *more: dict[str, Any]) -> ReleaseDocument:
    variant = document("1.0.0").variants[0].model_dump(mode="json")
    return document("1.0.0", variants=[variant | {"health": health, "files": [FILE, *more]}])


def test_a_document_that_asks_for_none_of_it_has_the_bytes_it_always_had() -> None:
    written = json.loads(document("1.0.0").canonical_bytes())["variants"][0]["health"]

    assert "shadow" not in written
    assert written["soak"].keys() == {
        "seconds",
        "requests_min",
        "error_rate_max",
        "latency_p95_ms_max",
        "breach_requests_min",
    }


def test_what_it_asks_for_survives_being_written_and_read() -> None:
    health = {
        "shadow": {"share": 0.5, "comparison": "argmax", "when_unproven": "fail"},
        "soak": {"counters": {"accuracy": {"good_rate_min": 0.9}}, "drift": {"inputs_max": 1}},
    }
    release = with_health(health, REFERENCE)

    assert ReleaseDocument.parse(release.canonical_bytes()) == release
    assert release.variants[0].health == Health.model_validate(health)


def test_drift_without_a_reference_is_refused() -> None:
    with pytest.raises(ValidationError, match="file of role 'reference'; there is none"):
        with_health({"soak": {"drift": {}}})


@pytest.mark.parametrize(
    "gate",
    [{}, {"good_rate_min": 0.5, "mean_min": 1}, {"good_rate_min": 1.1}, {"mean": 1}],
)
def test_a_counter_has_one_kind_of_bound(gate: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        CounterGate.model_validate(gate)


def test_drift_bounds_something() -> None:
    with pytest.raises(ValidationError, match="inputs_max or an outputs_max"):
        DriftGate(outputs_max=None)


def test_there_are_only_so_many_counters() -> None:
    gate = CounterGate(good_rate_min=0.5)

    assert Soak(counters={f"c{n}": gate for n in range(COUNTERS_MAX)})
    with pytest.raises(ValidationError):
        Soak(counters={f"c{n}": gate for n in range(COUNTERS_MAX + 1)})


@pytest.mark.parametrize(
    "health",
    [
        {"soak": {"counters": {"a": {"mean_min": NAN}}}},
        {"soak": {"counters": {"a": {"mean_max": INF}}}},
        {"soak": {"counters": {"a": {"mean_min": 2, "mean_max": 1}}}},
        {"soak": {"latency_p95_ms_max": INF}},
        {"soak": {"error_rate_max": NAN}},
        {"shadow": {"tolerance": INF}},
        {"shadow": {"agreement_min": NAN}},
        {"tolerance": INF},
        {"tolerances": {"y": NAN}},
        {"tolerances": {"y": -1}},
        {"check": {"measures": {"wer": {"at_most": NAN}}}},
    ],
    ids=str,
)
def test_a_bound_that_nothing_could_break_or_keep_is_refused(health: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as refused:
        Health.model_validate(health)

    assert refused.value.errors()[0]["type"] != "extra_forbidden"

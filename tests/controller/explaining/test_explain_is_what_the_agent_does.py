"""For random devices in random fleet states: what `explain` says, the agent then does."""

import random
from collections import Counter
from pathlib import Path

import pytest

from explained_fleet import MODEL, ExplainedFleet, move_of
from mailboat_agent.update.situation import candidate_for
from mailboat_schemas.eligibility import evaluate

DEVICES_PER_FLEET = 25


@pytest.mark.parametrize(
    ("pairs", "seed"),
    [
        pytest.param(50, 3, id="50"),
        pytest.param(1000, 8, id="1000", marks=pytest.mark.slow),
    ],
)
def test_explain_says_what_the_agent_does(tmp_path: Path, pairs: int, seed: int) -> None:
    seen: Counter[str] = Counter()
    for number in range(pairs // DEVICES_PER_FLEET):
        rng = random.Random(seed * 1000 + number)
        fleet = ExplainedFleet(tmp_path / str(number), rng, DEVICES_PER_FLEET)
        try:
            for name in fleet.labels:
                seen[compare(fleet, name, f"seed {seed}, fleet {number}, {name}")] += 1
        finally:
            fleet.close()

    assert seen.total() == pairs
    assert {"takes", "stays", "leaves"} <= set(seen)
    assert seen["unknown"] <= pairs // 10, seen


def compare(fleet: ExplainedFleet, name: str, where: str) -> str:
    """Check by check and in the end, the two say the same; what the end was."""
    situation, step, explanation = fleet.arrive(name)
    (model,) = (each for each in explanation.models if each.model == MODEL)
    prediction = model.prediction
    offer = situation.assignment.offer if situation.assignment else None
    for release in model.releases:
        offered = offer is not None and offer.release.digest == release.ref.digest
        candidate = candidate_for(situation, release.ref, offered=offered)
        for own, told in zip(
            evaluate(situation.facts, candidate, fleet.now).checks,
            release.explained.checks,
            strict=True,
        ):
            assert own.name == told.name
            unknown = told.name == "disk" and told.passed is None
            assert unknown or own.passed == told.passed, f"{where}: {own} {told}"
            assert own.code == told.code, where
    move, digest = move_of(step)
    predicted = prediction.release.digest if prediction.release else ""
    if prediction.move == "unknown":
        assert move == "stays" or digest == predicted, f"{where}: {step} {prediction}"
    else:
        assert move == prediction.move, f"{where}: {step} {prediction}"
        assert move not in ("takes", "fetches") or digest == predicted, (
            f"{where}: {step} {prediction}"
        )
    return str(prediction.move)

"""For random devices in random fleet states: whom `plan` names, the agent then installs on."""

import random
from pathlib import Path

import pytest

from explained_fleet import ExplainedFleet, move_of
from mailboat_controller.explaining.explain import Evidence
from mailboat_controller.explaining.plan import Forecast, forecast
from mailboat_controller.releases.build import plan_of
from mailboat_schemas.documents.rollout import Rollout

DEVICES = 25
VERSION = "1.3.0"


@pytest.mark.parametrize(
    "fleets",
    [pytest.param(1, id="25"), pytest.param(20, id="500", marks=pytest.mark.slow)],
)
def test_whom_a_plan_lets_in_takes_the_release_and_nobody_else(tmp_path: Path, fleets: int) -> None:
    taken = refused = 0
    for number in range(fleets):
        rng = random.Random(number)
        fleet = ExplainedFleet(tmp_path / str(number), rng, DEVICES)
        try:
            for name in fleet.labels:
                fleet.arrive(name)
            digest = fleet.core.trust.release(VERSION, approve=False)
            assert fleet.core.submit("release-vad").status == "accepted"
            document = rollout(rng)
            planned = plan_now(fleet, document)
            approve(fleet, document)
            for name in fleet.labels:
                first = planned.places.get(name) == 1
                move = move_of(fleet.decides(name))
                if name in planned.unknown or move[0] == "leaves":
                    continue  # it leaves what is withdrawn first
                expected = first and name in planned.able
                if expected and name in planned.waiting:
                    assert move[0] == "stays" or move == ("fetches", digest), f"{number}, {name}"
                    continue
                assert (move == ("takes", digest)) == expected, f"fleet {number}, {name}: {move}"
                taken += expected
                refused += not expected
        finally:
            fleet.close()

    assert taken
    assert refused


def rollout(rng: random.Random) -> Rollout:
    first = rng.choice(
        (
            {"pilots": ["dev-0", "dev-3"]},
            {"percent": 40},
            {"percent": 100, "ring": {"zone": "north"}},
        )
    )
    return Rollout.model_validate(
        {
            "apiVersion": "mailboat/v1",
            "kind": "Rollout",
            "metadata": {"name": "r3"},
            "spec": {
                "release": {"model": "vad", "version": VERSION},
                "waves": [first, {"percent": 100}],
            },
        }
    )


def plan_now(fleet: ExplainedFleet, document: Rollout) -> Forecast:
    with fleet.core.store.read() as tx:
        return forecast(Evidence(tx, fleet.now), document, None)


def approve(fleet: ExplainedFleet, document: Rollout) -> None:
    fleet.core.trust.release(VERSION, plan_of(document, len(fleet.labels)))
    assert fleet.core.submit("release-vad", "approval-vad").status == "accepted"
    fleet.core.run()
    fleet.hear()

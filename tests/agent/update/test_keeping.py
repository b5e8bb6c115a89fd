"""Which of what ran here before gives way to what needs its room."""

import pytest

from mailboat_agent.update.keeping import gives_way
from mailboat_agent.update.state import Installed, ModelState
from mailboat_schemas.reports import ModelPhase

ACTIVE, FIRST, SECOND, THIRD = (Installed(version=f"{n}.0.0", digest=f"{n}" * 64) for n in "4321")


@pytest.mark.parametrize(
    ("phase", "going"),
    [
        (ModelPhase.COMMITTED, (SECOND, THIRD)),
        # What served until now is the first of them: it and the one before it stay.
        (ModelPhase.TRIAL, (THIRD,)),
        (ModelPhase.SOAK, (THIRD,)),
    ],
)
def test_the_release_that_a_rollback_goes_to_never_gives_way(
    phase: ModelPhase, going: tuple[Installed, ...]
) -> None:
    state = ModelState(phase=phase, active=ACTIVE, previous=FIRST, spare=SECOND, oldest=THIRD)

    assert gives_way(state) == going


def test_where_nothing_ran_before_nothing_gives_way() -> None:
    assert gives_way(ModelState()) == ()
    assert gives_way(ModelState(phase=ModelPhase.COMMITTED, active=ACTIVE, previous=FIRST)) == ()

"""What the class allows binds what a device installs, and nothing that serves already."""

import pytest

from agent_box import AgentBox, Play
from mailboat_schemas.class_budgets import ClassBudgets
from model_fleet import MIB, ModelFleet
from patched_fleet import heavy

pytestmark = pytest.mark.slow


def test_a_release_over_the_memory_of_the_class_is_refused_and_what_serves_stays(
    play: Play, fleet: ModelFleet
) -> None:
    first = fleet.model_release("1.0.0")
    second = fleet.model_release("1.1.0", model=heavy(3.0), factor=3.0)

    async def story(box: AgentBox) -> None:
        await box.install(fleet.current(first), "1.0.0")
        fleet.budgets = ClassBudgets(memory_bytes=MIB)
        box.take(fleet.offered(second, first))
        await box.until(lambda: any("1.1.0" in told for told in box.told()))
        refused = box.events()[-1]
        assert (refused.kind, refused.code) == ("release_refused", "memory")
        assert "the budget of the class is 1048576" in refused.because

        await box.restart()  # nor does it take away what the device has committed
        await box.until(lambda: box.serving == "1.0.0")

    play(story)


def test_a_trial_is_held_to_the_latency_of_the_class(play: Play, fleet: ModelFleet) -> None:
    first = fleet.model_release("1.0.0")
    second = fleet.model_release("1.1.0", model=heavy(3.0), factor=3.0)

    async def story(box: AgentBox) -> None:
        await box.install(fleet.current(first), "1.0.0")
        fleet.budgets = ClassBudgets(latency_p95_ms_max=1e-6)
        box.take(fleet.offered(second, first))
        await box.until(lambda: any(event.kind == "trial_failed" for event in box.events()))
        assert box.events()[-1].code == "latency_exceeded"

    play(story)

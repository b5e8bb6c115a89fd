"""A committed release that serves again after the agent was started anew is told of, once."""

import pytest

from agent_box import AgentBox, Play
from mailboat_agent.restarts import RESTART_SECONDS
from mailboat_schemas.events import Event, EventKind
from model_fleet import ModelFleet


def restarts(box: AgentBox) -> list[Event]:
    return [event for event in box.events() if event.kind is EventKind.RESTARTED]


@pytest.mark.slow
def test_a_release_that_comes_back_after_a_restart_is_told_once_for_each_install(
    play: Play, fleet: ModelFleet
) -> None:
    first, second = fleet.model_release("1.0.0"), fleet.model_release("1.1.0", factor=3.0)

    async def story(box: AgentBox) -> None:
        await box.install(fleet.current(first), "1.0.0")
        assert restarts(box) == []  # no start since it was committed
        for _ in range(2):
            await box.restart()
            await box.until(lambda: box.committed("1.0.0"))
            await box.step()
        (event,) = restarts(box)
        assert (event.version, event.digest) == ("1.0.0", first.digest)
        assert event.evidence[RESTART_SECONDS] >= 0

        await box.install(fleet.offered(second, first), "1.1.0")
        await box.restart()
        await box.until(lambda: box.committed("1.1.0"))
        await box.step()
        assert [each.version for each in restarts(box)] == ["1.0.0", "1.1.0"]

    play(story)


@pytest.mark.slow
def test_a_release_that_was_gone_back_to_is_not_told_as_one_that_came_back(
    play: Play, fleet: ModelFleet
) -> None:
    first, second = fleet.model_release("1.0.0"), fleet.model_release("1.1.0", factor=3.0)

    async def story(box: AgentBox) -> None:
        await box.install(fleet.current(first), "1.0.0")
        await box.install(fleet.offered(second, first), "1.1.0")
        await box.install(fleet.current(first), "1.0.0")  # halted: the offer is gone
        await box.restart()
        await box.until(lambda: box.committed("1.0.0"))
        await box.step()
        assert restarts(box) == []

    play(story)

"""A device that is told by signed manifests what to serve, and what answers when it cannot."""

import asyncio
import io
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent_box import AgentBox
from attack_siege import served as artifact_server
from degraded_front import Front, Make
from mailboat_schemas.desired import Assignment
from model_fleet import MODEL, Certificates, ModelFleet, picky

Story = Callable[[AgentBox, Front], Coroutine[None, None, None]]
ROW = {"name": "y", "dtype": "float32", "shape": [-1, 4], "values": [0, 0, 0, 0]}
NOTHING = Assignment(model=MODEL)


@pytest.fixture
def fleet(tmp_path: Path) -> ModelFleet:
    return ModelFleet(tmp_path / "ceremony")


@pytest.fixture
def play(tmp_path: Path, fleet: ModelFleet, make: Make) -> Callable[..., None]:
    certificates = Certificates(tmp_path / "pki")

    def run(story: Story, **front: Any) -> None:
        async def play_it(server: Any) -> None:
            box = AgentBox(tmp_path / "data", fleet, server, certificates)
            try:
                await story(box, make(runtime=box.runtime, **front))
            finally:
                await box.stop()

        with artifact_server(certificates, fleet) as server:
            asyncio.run(play_it(server))

    return run


def mark(front: Front) -> tuple[int, str]:
    status, _, headers = front.infer(MODEL)
    return status, headers.get("mailboat-degraded", "")


@pytest.mark.slow
def test_of_a_withdrawn_release_not_even_the_rule_speaks_but_the_operator_s_does(
    play: Callable[..., None], fleet: ModelFleet
) -> None:
    rule = {"degraded": {"fallback": {"outputs": [ROW]}}}
    release = fleet.model_release("1.0.0", serving=rule)

    async def story(box: AgentBox, front: Front) -> None:
        await box.install(fleet.current(release), "1.0.0")
        fleet.withdraw("1.0.0")
        box.take(fleet.bundle(NOTHING))
        assert mark(front) == (503, "")  # at once, not at the next look
        await box.until(lambda: box.state.active is None)
        await box.step()
        assert mark(front) == (503, "")
        assert box.told()[-1] == "nothing_to_serve 1.0.0"

    play(story)


@pytest.mark.slow
def test_the_operator_s_rule_answers_for_what_was_withdrawn_and_hides_nothing(
    play: Callable[..., None], fleet: ModelFleet
) -> None:
    release = fleet.model_release("1.0.0")

    async def story(box: AgentBox, front: Front) -> None:
        await box.install(fleet.current(release), "1.0.0")
        assert mark(front) == (200, "")
        fleet.withdraw("1.0.0")
        box.take(fleet.bundle(NOTHING))
        assert mark(front) == (200, "fallback-rule")
        await box.until(lambda: box.state.active is None)
        await box.step()
        _, _, headers = front.infer(MODEL)
        assert headers["mailboat-degraded-because"] == "withdrawn"
        assert front.call("GET", "/v2/health/ready")[0] == 503
        assert box.told()[-1] == "nothing_to_serve 1.0.0"

    play(story, fallback=({"model": MODEL, "outputs": [ROW]},))


@pytest.mark.slow
def test_a_release_that_failed_here_is_spoken_for_by_its_rule_also_after_a_restart(
    play: Callable[..., None], fleet: ModelFleet
) -> None:
    rule = {"degraded": {"fallback": {"outputs": [ROW]}}}
    soak = {"seconds": 60, "error_rate_max": 0.1, "breach_requests_min": 2}
    release = fleet.model_release(
        "1.0.0", model=picky(), samples=_small_golden(), soak=soak, serving=rule
    )

    async def story(box: AgentBox, front: Front) -> None:
        box.take(fleet.current(release))
        await box.until(lambda: box.serving == "1.0.0")
        while box.state.active is not None:
            await asyncio.to_thread(front.infer, MODEL, (9, 9, 9, 9))
            await box.step()
        await box.step()
        assert mark(front) == (200, "fallback-rule")
        # The document is all that is left of it, and it stays.
        await box.restart()
        for _ in range(3):
            await box.step()
        absence = box.runtime.absences()[MODEL]
        assert absence.policy is not None
        assert absence.policy.fallback is not None
        assert absence.word == "error_rate"

    play(story)


@pytest.mark.slow
def test_fail_closed_lets_nothing_answer(play: Callable[..., None], fleet: ModelFleet) -> None:
    release = fleet.model_release("1.0.0", failure_mode="fail_closed")

    async def story(box: AgentBox, front: Front) -> None:
        await box.install(fleet.current(release), "1.0.0")
        fleet.withdraw("1.0.0")
        box.take(fleet.bundle(NOTHING))
        assert mark(front) == (503, "")
        await box.until(lambda: box.state.active is None)
        await box.step()
        assert mark(front) == (503, "")

    play(story, fallback=({"model": MODEL, "outputs": [ROW]},))


@pytest.mark.slow
def test_the_declared_fallback_release_is_marked_until_it_is_what_is_wanted(
    play: Callable[..., None], fleet: ModelFleet
) -> None:
    older = fleet.model_release("1.0.0")
    newer = fleet.model_release("1.1.0", factor=3.0, fallback="1.0.0")

    async def story(box: AgentBox, front: Front) -> None:
        await box.install(fleet.current(older), "1.0.0")
        await box.install(fleet.current(newer), "1.1.0")
        assert mark(front) == (200, "")
        fleet.withdraw("1.1.0")
        box.take(fleet.bundle(NOTHING))
        await box.until(lambda: box.committed("1.0.0"))
        await box.step()
        assert mark(front) == (200, "fallback-release")
        box.take(fleet.current(older))
        await box.step()
        assert mark(front) == (200, "")

    play(story)


def _small_golden() -> bytes:
    x = np.array([[[0, 1, 2, 3]]], np.float32)
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {"in.x": x, "out.y": x}
    np.savez(buffer, **arrays)
    return buffer.getvalue()

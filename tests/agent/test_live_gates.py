"""Gates on live traffic, on a real device: a shadow before the switch, figures in the soak."""

import asyncio
import hashlib
import json
import os
import signal
import time
from collections.abc import Callable, Coroutine, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

from agent_box import AgentBox
from mailboat_agent.errand import Kind
from mailboat_agent.journal.telemetry import Telemetry
from mailboat_agent.serving.json_tensors import tensor_of_json
from mailboat_schemas.documents.reference import Reference
from mailboat_schemas.events import Event
from mailboat_schemas.reports import ModelPhase
from model_fleet import MODEL, ArtifactServer, Certificates, ModelFleet, golden, picky

pytestmark = pytest.mark.slow  # each starts processes that load a model

Story = Callable[[AgentBox], Coroutine[None, None, None]]
Play = Callable[[Story], AgentBox]
SHADOW = {"share": 1, "requests_min": 10, "seconds_max": 60}
COUNTED = {"seconds": 600, "counters": {"accuracy": {"good_rate_min": 0.9, "total_min": 10}}}
PATIENCE_SECONDS = 30


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def fleet(tmp_path: Path) -> ModelFleet:
    return ModelFleet(tmp_path / "ceremony")


@pytest.fixture
def play(tmp_path: Path, fleet: ModelFleet, certificates: Certificates) -> Iterator[Play]:
    """Runs a story on a fresh device and leaves nothing behind."""
    server = ArtifactServer(certificates, fleet.artifacts)

    def run(story: Story) -> AgentBox:
        async def play() -> AgentBox:
            box = AgentBox(tmp_path / "data", fleet, server, certificates)
            try:
                await story(box)
            finally:
                await box.stop()
            return box

        return asyncio.run(play())

    yield run
    server.close()


def ask(box: AgentBox, *values: float) -> list[float]:
    """One live request, and what its caller gets."""
    row = list(values) or [0.0, 1.0, 2.0, 3.0]
    x = tensor_of_json({"name": "x", "datatype": "FP32", "shape": [1, 4], "data": row})
    future = box.runtime.submit(
        MODEL,
        None,
        [x],
        [],
        deadline=time.monotonic() + 5,
        encode=lambda _release, inference: list(inference.outputs[0].values()),
    )
    return future.result(5)


def post(box: AgentBox, **content: Any) -> dict[str, Any]:
    body = json.dumps({"model": MODEL, **content}).encode()
    return box.runtime.live.feedback.post(body, time.monotonic())


async def under_load(box: AgentBox, condition: Callable[[], bool]) -> list[list[float]]:
    """Turn the loop and ask what serves, until it is so; returns every answer."""
    answers, give_up = [], time.monotonic() + PATIENCE_SECONDS
    while not (condition() and not box.reconciler.busy):
        assert time.monotonic() < give_up, f"{box.told()} {box.state}"
        await box.step()
        answers.append(await asyncio.to_thread(ask, box))
        await asyncio.sleep(0.005)
    return answers


def shadowing(box: AgentBox) -> bool:
    loop = box.reconciler.loops.get(MODEL)
    return loop is not None and loop.work is not None and loop.work.kind is Kind.SHADOW


async def until_it_shadows(box: AgentBox) -> None:
    give_up = time.monotonic() + PATIENCE_SECONDS
    while not (shadowing(box) and box.reconciler.loops[MODEL].because.startswith("shadowing")):
        assert time.monotonic() < give_up, f"{box.told()} {box.state}"
        await box.step()
        await asyncio.sleep(0.01)


def last(box: AgentBox, kind: str) -> Event:
    return [event for event in box.events() if event.kind == kind][-1]


# --- shadow ------------------------------------------------------------------------------------


def test_a_candidate_that_answers_otherwise_never_serves(play: Play, fleet: ModelFleet) -> None:
    a = fleet.model_release("1.0.0")
    other = fleet.model_release("1.1.0", factor=3.0, health={"shadow": SHADOW})

    async def story(box: AgentBox) -> None:
        await box.install(fleet.current(a), "1.0.0")
        box.take(fleet.offered(other, a))
        answers = await under_load(box, lambda: "trial_failed 1.1.0" in box.told())

        assert {tuple(answer) for answer in answers} == {(1.0, 3.0, 5.0, 7.0)}
        failed = last(box, "trial_failed")
        assert (failed.code, failed.serving_version) == ("shadow_disagreement", "1.0.0")
        assert failed.evidence["differed"] >= 1
        assert failed.evidence["differences"][0] == "output 'y': off by 3, 0.001 is allowed"
        assert "soak_started 1.1.0" not in box.told()

    play(story)


@pytest.mark.slow
def test_a_candidate_that_answers_alike_serves_and_says_what_was_compared(
    play: Play, fleet: ModelFleet
) -> None:
    a = fleet.model_release("1.0.0")
    b = fleet.model_release("1.1.0", health={"shadow": SHADOW | {"comparison": "cosine"}})

    async def story(box: AgentBox) -> None:
        await box.install(fleet.current(a), "1.0.0")
        box.take(fleet.offered(b, a))
        await under_load(box, lambda: box.committed("1.1.0"))

        shadow = last(box, "soak_started").evidence["shadow"]
        assert shadow["agreed"] >= 10
        assert shadow["because"].endswith("mirrored requests were answered alike")
        assert last(box, "committed").evidence["requests_error"] == 0
        # What was mirrored is told of the candidate, and once.
        telemetry = Telemetry(box.runtime, box.journal, box.now())
        telemetry.drain([MODEL], box.now(), 60)
        telemetry.drain([MODEL], box.now(), 60)
        windows = box.journal.windows_after(0, 10, 1 << 20)
        told = [w.shadow for w in windows if w.shadow is not None and w.digest == b.digest]
        assert [shadow.agreed for shadow in told] == [shadow["agreed"]]

    play(story)


@pytest.mark.slow
@pytest.mark.parametrize("unproven", ["pass", "fail"])
def test_without_live_load_the_document_decides(
    play: Play, fleet: ModelFleet, unproven: str
) -> None:
    a = fleet.model_release("1.0.0")
    shadow = SHADOW | {"seconds_max": 0.5, "when_unproven": unproven}
    b = fleet.model_release("1.1.0", health={"shadow": shadow})

    async def story(box: AgentBox) -> None:
        await box.install(fleet.current(a), "1.0.0")
        box.take(fleet.offered(b, a))
        if unproven == "pass":
            await box.until(lambda: box.committed("1.1.0"))
            told = last(box, "soak_started").evidence["shadow"]
            assert told["not_shadowed"] == "0.5 s have passed"
        else:
            await box.until(lambda: "trial_failed 1.1.0" in box.told())
            assert last(box, "trial_failed").code == "not_shadowed"
            assert box.committed("1.0.0")

    play(story)


@pytest.mark.slow
def test_a_first_release_has_nothing_to_be_compared_with(play: Play, fleet: ModelFleet) -> None:
    a = fleet.model_release("1.0.0", health={"shadow": SHADOW})

    async def story(box: AgentBox) -> None:
        await box.install(fleet.current(a), "1.0.0")
        assert last(box, "soak_started").evidence == {}

    play(story)


@pytest.mark.slow
def test_a_candidate_that_dies_on_live_requests_fails_its_trial(
    play: Play, fleet: ModelFleet
) -> None:
    a = fleet.model_release("1.0.0")
    b = fleet.model_release("1.1.0", health={"shadow": SHADOW})

    async def story(box: AgentBox) -> None:
        await box.install(fleet.current(a), "1.0.0")
        box.take(fleet.offered(b, a))
        await until_it_shadows(box)
        serving = box.runtime.worker_pid(MODEL)
        for child in psutil.Process().children():
            if child.pid != serving:
                os.kill(child.pid, signal.SIGKILL)
        await under_load(box, lambda: "trial_failed 1.1.0" in box.told())

        assert last(box, "trial_failed").code == "crashed"
        assert box.runtime.worker_pid(MODEL) == serving

    play(story)


@pytest.mark.slow
def test_a_candidate_that_cannot_answer_live_requests_fails(play: Play, fleet: ModelFleet) -> None:
    a = fleet.model_release("1.0.0", factor=1.0, samples=golden(1.0))
    bad = fleet.model_release(
        "1.1.0", model=picky(), samples=golden(1.0, 0.0), health={"shadow": SHADOW}
    )

    async def story(box: AgentBox) -> None:
        await box.install(fleet.current(a), "1.0.0")
        box.take(fleet.offered(bad, a))
        await until_it_shadows(box)
        for _ in range(40):  # the first twenty say what is usual here
            await asyncio.to_thread(ask, box, 9, 9, 9, 9)
        await box.until(lambda: "trial_failed 1.1.0" in box.told())

        failed = last(box, "trial_failed")
        assert failed.code == "shadow_disagreement"
        assert failed.evidence["failed"] >= 1
        assert "the candidate failed" in failed.evidence["differences"][0]

    play(story)


@pytest.mark.slow
def test_a_shadow_cut_by_a_restart_begins_again_with_its_trial(
    play: Play, fleet: ModelFleet
) -> None:
    a = fleet.model_release("1.0.0")
    b = fleet.model_release("1.1.0", health={"shadow": SHADOW})

    async def story(box: AgentBox) -> None:
        await box.install(fleet.current(a), "1.0.0")
        box.take(fleet.offered(b, a))
        await until_it_shadows(box)
        assert (box.state.phase, box.state.tries) == (ModelPhase.TRIAL, 2)
        assert box.serving == "1.0.0"
        box.clock_offset = timedelta(hours=5)  # clocks may jump; a shadow goes by another
        await box.restart()
        await until_it_shadows(box)
        assert (box.serving, box.state.tries) == ("1.0.0", 1)
        await under_load(box, lambda: box.committed("1.1.0"))

        assert last(box, "soak_started").evidence["shadow"]["agreed"] >= 10

    play(story)


@pytest.mark.slow
def test_an_agent_told_to_stop_in_a_shadow_gives_the_attempt_back(
    play: Play, fleet: ModelFleet
) -> None:
    a = fleet.model_release("1.0.0")
    b = fleet.model_release("1.1.0", health={"shadow": SHADOW})

    async def story(box: AgentBox) -> None:
        await box.install(fleet.current(a), "1.0.0")
        box.take(fleet.offered(b, a))
        await until_it_shadows(box)
        box.reconciler.give_back_attempts()
        await box.restart()

        assert (box.state.phase, box.state.tries) == (ModelPhase.TRIAL, 3)

    play(story)


@pytest.mark.slow
def test_a_candidate_withdrawn_in_its_shadow_is_dropped(play: Play, fleet: ModelFleet) -> None:
    a = fleet.model_release("1.0.0")
    b = fleet.model_release("1.1.0", health={"shadow": SHADOW})

    async def story(box: AgentBox) -> None:
        await box.install(fleet.current(a), "1.0.0")
        box.take(fleet.offered(b, a))
        await until_it_shadows(box)
        fleet.withdraw("1.1.0")
        box.take(fleet.offered(b, a))
        await box.until(lambda: "returned 1.1.0" in box.told())

        assert last(box, "returned").code == "withdrawn"
        assert box.committed("1.0.0")
        await asyncio.sleep(0.5)
        serving = box.runtime.worker_pid(MODEL)
        alive = [p for p in psutil.Process().children() if p.status() != psutil.STATUS_ZOMBIE]
        assert [child.pid for child in alive] == [serving]

    play(story)


@pytest.mark.slow
def test_when_what_serves_is_withdrawn_nobody_waits_for_the_shadow(
    play: Play, fleet: ModelFleet
) -> None:
    a = fleet.model_release("1.0.0")
    b = fleet.model_release("1.1.0", health={"shadow": SHADOW})

    async def story(box: AgentBox) -> None:
        await box.install(fleet.current(a), "1.0.0")
        box.take(fleet.offered(b, a))
        await until_it_shadows(box)
        fleet.withdraw("1.0.0")
        box.take(fleet.offered(b, None))
        await box.until(lambda: box.committed("1.1.0"))

        assert last(box, "soak_started").evidence == {}

    play(story)


# --- soak --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_the_application_says_rolls_back_and_late_words_of_the_old_do_not(
    play: Play, fleet: ModelFleet
) -> None:
    a = fleet.model_release("1.0.0")
    b = fleet.model_release("1.1.0", factor=3.0, soak=COUNTED)

    async def story(box: AgentBox) -> None:
        await box.install(fleet.current(a), "1.0.0")
        ask(box)
        box.take(fleet.offered(b, a))
        await box.until(lambda: box.state.phase is ModelPhase.SOAK)
        ask(box)
        late = post(box, release=a.digest, counters={"accuracy": {"good": 0, "total": 50}})
        assert late["version"] == "1.0.0"
        await box.step()
        assert box.state.phase is ModelPhase.SOAK
        post(box, release="1.1.0", counters={"accuracy": {"good": 8, "total": 10}})
        await box.until(lambda: "rolled_back 1.1.0" in box.told())

        failed = last(box, "rolled_back")
        assert (failed.code, failed.serving_version) == ("counter_breach", "1.0.0")
        assert failed.evidence["posted"] == {"accuracy": {"good": 8, "total": 10}}

    play(story)


@pytest.mark.slow
def test_answers_that_have_shifted_from_the_reference_roll_back(
    play: Play, fleet: ModelFleet
) -> None:
    a = fleet.model_release("1.0.0")
    reference = Reference.model_validate(
        {
            "samples": 100,
            "tensors": [
                {"name": "y", "side": "output", "elements": 400, "edges": [2, 4, 6],
                 "counts": [100, 100, 100, 100]}
            ],
        }
    )  # fmt: skip
    soak = {"seconds": 600, "drift": {"outputs_max": 0.25, "requests_min": 10}}
    b = fleet.model_release("1.1.0", soak=soak, reference=reference.canonical_bytes())

    async def story(box: AgentBox) -> None:
        await box.install(fleet.current(a), "1.0.0")
        box.take(fleet.offered(b, a))
        await box.until(lambda: box.state.phase is ModelPhase.SOAK)
        for _ in range(12):  # 1 3 5 7: as the reference
            ask(box)
            await asyncio.sleep(0.21)  # no more often are they sampled
            await box.step()
        assert box.state.phase is ModelPhase.SOAK
        assert box.runtime.live.shifts(MODEL, b.digest)[0].shift == 0
        while "rolled_back 1.1.0" not in box.told() and box.serving == "1.1.0":
            ask(box, 9, 9, 9, 9)
            await asyncio.sleep(0.21)
            await box.step()
        await box.until(lambda: "rolled_back 1.1.0" in box.told())

        failed = last(box, "rolled_back")
        assert failed.code == "drift"
        assert failed.evidence["shifts"][0]["tensor"] == "y"

    play(story)


@pytest.mark.slow
def test_a_reference_damaged_in_the_soak_lets_nothing_pass_and_blames_nobody(
    play: Play, fleet: ModelFleet
) -> None:
    a = fleet.model_release("1.0.0")
    reference = Reference.model_validate(
        {"samples": 1, "tensors": [{"name": "y", "side": "output", "elements": 1}]}
    ).canonical_bytes()
    soak = {"seconds": 1, "requests_min": 1, "drift": {}}
    b = fleet.model_release("1.1.0", soak=soak, reference=reference)

    async def story(box: AgentBox) -> None:
        await box.install(fleet.current(a), "1.0.0")
        box.take(fleet.offered(b, a))
        await box.until(lambda: box.state.phase is ModelPhase.SOAK)
        path = box.store.path(hashlib.sha256(reference).hexdigest())
        path.chmod(0o644)
        path.write_bytes(reference.replace(b"output", b"input_"))
        await box.restart()
        await box.until(lambda: "returned 1.1.0" in box.told())

        assert last(box, "returned").code == "storage_damaged"
        assert box.state.failed == {}
        await box.until(lambda: box.serving == "1.0.0")

    play(story)


@pytest.mark.slow
def test_reference_statistics_that_cannot_be_read_fail_the_trial(
    play: Play, fleet: ModelFleet
) -> None:
    a = fleet.model_release("1.0.0", reference=b'{"format": "another"}')

    async def story(box: AgentBox) -> None:
        box.take(fleet.current(a))
        await box.until(lambda: "trial_failed 1.0.0" in box.told())

        assert last(box, "trial_failed").code == "reference_unreadable"

    play(story)

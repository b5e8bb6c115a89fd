"""Gates on live traffic, on a real device: a shadow before the switch, figures in the soak."""

import asyncio
import hashlib
import json
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

from live_story import LiveDevice, Stage
from mailboat_agent.journal.telemetry import Telemetry
from mailboat_agent.serving.lane import Lane
from mailboat_agent.serving.not_served import ModelSuspended
from mailboat_agent.serving.runtime import Runtime
from mailboat_agent.serving.served_release import ServedRelease
from mailboat_schemas.documents.reference import Reference
from mailboat_schemas.reports import ModelPhase
from model_fleet import MODEL, Certificates, golden, picky

pytestmark = pytest.mark.slow  # each starts processes that load a model

SHADOW: dict[str, Any] = {"share": 1, "requests_min": 10, "seconds_max": 60}
COUNTED = {"seconds": 600, "counters": {"accuracy": {"good_rate_min": 0.9, "total_min": 10}}}
SAMPLED_EVERY_SECONDS = 0.21  # no more often is a request sampled


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def stage(tmp_path: Path, certificates: Certificates) -> Iterator[Stage]:
    stage = Stage(tmp_path, certificates)
    yield stage
    stage.close()


# --- shadow ------------------------------------------------------------------------------------


def test_a_candidate_that_answers_otherwise_never_serves(stage: Stage) -> None:
    async def story(device: LiveDevice) -> None:
        answers = await device.under_load(lambda: "trial_failed 1.1.0" in device.told())

        assert {tuple(answer) for answer in answers} == {(1.0, 3.0, 5.0, 7.0)}
        failed = device.last("trial_failed")
        assert (failed.code, failed.serving_version) == ("shadow_disagreement", "1.0.0")
        assert failed.evidence["differed"] >= 1
        assert failed.evidence["differences"][0] == "output 'y': off by 3, 0.001 is allowed"
        assert "soak_started 1.1.0" not in device.told()
        # What came of it is kept beside the failures of other trials.
        kept = device.directory / "evidence" / failed.evidence["kept"]
        assert json.loads(kept.read_text())["reason"] == "shadow_disagreement"

    stage.tell_of_candidate(story, factor=3.0, health={"shadow": SHADOW})


def test_a_candidate_that_answers_alike_serves_and_says_what_was_compared(stage: Stage) -> None:
    async def story(device: LiveDevice) -> None:
        await device.under_load(lambda: device.committed("1.1.0"))

        shadow = device.last("soak_started").evidence["shadow"]
        assert shadow["agreed"] >= 10
        assert shadow["because"].endswith("mirrored requests were answered alike")
        assert device.last("committed").evidence["requests_error"] == 0
        # What was mirrored is told of the candidate, and once.
        telemetry = Telemetry(device.runtime, device.journal, device.now())
        telemetry.drain([MODEL], device.now(), 60)
        telemetry.drain([MODEL], device.now(), 60)
        windows = device.journal.windows_after(0, 10, 1 << 20)
        digest = stage.candidate.digest
        told = [w.shadow for w in windows if w.shadow is not None and w.digest == digest]
        assert len(told) == 1
        assert told[0].agreed >= shadow["agreed"]  # one may come after the verdict

    stage.tell_of_candidate(story, health={"shadow": SHADOW | {"comparison": "cosine"}})


@pytest.mark.parametrize("unproven", ["pass", "fail"])
def test_without_live_load_the_document_decides(stage: Stage, unproven: str) -> None:
    async def story(device: LiveDevice) -> None:
        if unproven == "pass":
            await device.until(lambda: device.committed("1.1.0"))
            told = device.last("soak_started").evidence["shadow"]
            assert told["not_shadowed"] == "0.5 s have passed"
        else:
            await device.until(lambda: "trial_failed 1.1.0" in device.told())
            assert device.last("trial_failed").code == "not_shadowed"
            assert device.committed("1.0.0")

    shadow = SHADOW | {"seconds_max": 0.5, "when_unproven": unproven}
    stage.tell_of_candidate(story, health={"shadow": shadow})


def test_a_first_release_has_nothing_to_be_compared_with(stage: Stage) -> None:
    async def story(device: LiveDevice) -> None:
        assert "shadow" not in device.last("soak_started").evidence

    stage.tell_of_candidate(story, before={"health": {"shadow": SHADOW}})


def test_a_candidate_that_dies_on_live_requests_fails_its_trial(stage: Stage) -> None:
    async def story(device: LiveDevice) -> None:
        await device.until_it_shadows()
        serving = device.runtime.worker_pid(MODEL)
        for child in psutil.Process().children():
            if child.pid != serving:
                os.kill(child.pid, signal.SIGKILL)
        await device.under_load(lambda: "trial_failed 1.1.0" in device.told())

        assert device.last("trial_failed").code == "crashed"
        assert device.runtime.worker_pid(MODEL) == serving

    stage.tell_of_candidate(story, health={"shadow": SHADOW})


def test_a_candidate_that_cannot_answer_live_requests_fails(stage: Stage) -> None:
    async def story(device: LiveDevice) -> None:
        await device.until_it_shadows()
        for _ in range(40):  # the first twenty say what is usual here
            with suppress(ModelSuspended):  # it may end between the two
                await asyncio.to_thread(device.ask, 9, 9, 9, 9)
        await device.until(lambda: "trial_failed 1.1.0" in device.told())

        failed = device.last("trial_failed")
        assert failed.code == "shadow_disagreement"
        assert failed.evidence["failed"] >= 1
        assert "the candidate failed" in failed.evidence["differences"][0]

    stage.tell_of_candidate(
        story,
        before={"factor": 1.0},
        model=picky(),
        samples=golden(1.0, 0.0),
        health={"shadow": SHADOW},
    )


def test_a_candidate_that_cannot_be_mirrored_to_is_given_up_after_a_few_tries(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be tried for ever, and no release after it would come either."""

    def broken(self: Runtime, release: ServedRelease) -> Lane:
        raise ArithmeticError("what nobody foresaw")

    monkeypatch.setattr(Runtime, "candidate", broken)

    async def story(device: LiveDevice) -> None:
        await device.until(lambda: "trial_failed 1.1.0" in device.told())

        failed = device.last("trial_failed")
        assert failed.code == "load_failed"
        assert "what nobody foresaw" in failed.because
        assert device.committed("1.0.0")

    stage.tell_of_candidate(story, health={"shadow": SHADOW})


def test_a_shadow_cut_by_a_restart_begins_again_with_its_trial(stage: Stage) -> None:
    async def story(device: LiveDevice) -> None:
        await device.until_it_shadows()
        assert (device.state.phase, device.state.tries) == (ModelPhase.TRIAL, 2)
        assert device.serving == "1.0.0"
        device.clock_offset = timedelta(hours=5)  # clocks may jump; a shadow goes by another
        await device.restart()
        await device.until_it_shadows()
        assert (device.serving, device.state.tries) == ("1.0.0", 1)
        await device.under_load(lambda: device.committed("1.1.0"))

        assert device.last("soak_started").evidence["shadow"]["agreed"] >= 10

    stage.tell_of_candidate(story, health={"shadow": SHADOW})


def test_an_agent_told_to_stop_in_a_shadow_gives_the_attempt_back(stage: Stage) -> None:
    async def story(device: LiveDevice) -> None:
        await device.until_it_shadows()
        device.reconciler.give_back_attempts()
        await device.restart()

        assert (device.state.phase, device.state.tries) == (ModelPhase.TRIAL, 3)

    stage.tell_of_candidate(story, health={"shadow": SHADOW})


def test_a_candidate_withdrawn_in_its_shadow_is_dropped(stage: Stage) -> None:
    async def story(device: LiveDevice) -> None:
        await device.until_it_shadows()
        stage.fleet.withdraw("1.1.0")
        device.take(stage.fleet.offered(stage.candidate, stage.before))
        await device.until(lambda: "returned 1.1.0" in device.told())

        assert device.last("returned").code == "withdrawn"
        assert device.committed("1.0.0")
        await device.until(lambda: worker_pids() == [device.runtime.worker_pid(MODEL)])

    stage.tell_of_candidate(story, health={"shadow": SHADOW})


def worker_pids() -> list[int]:
    children = psutil.Process().children()
    return [child.pid for child in children if child.status() != psutil.STATUS_ZOMBIE]


def test_when_what_serves_is_withdrawn_nobody_waits_for_the_shadow(stage: Stage) -> None:
    async def story(device: LiveDevice) -> None:
        await device.until_it_shadows()
        stage.fleet.withdraw("1.0.0")
        device.take(stage.fleet.offered(stage.candidate, None))
        await device.until(lambda: device.committed("1.1.0"))

        assert "shadow" not in device.last("soak_started").evidence

    stage.tell_of_candidate(story, health={"shadow": SHADOW})


# --- soak --------------------------------------------------------------------------------------


def test_what_the_application_says_rolls_back_and_late_words_of_the_old_do_not(
    stage: Stage,
) -> None:
    async def story(device: LiveDevice) -> None:
        device.ask()
        await device.until(lambda: device.state.phase is ModelPhase.SOAK)
        device.ask()
        accuracy = {"good": 0, "total": 50}
        late = device.post(release=stage.before.digest, counters={"accuracy": accuracy})
        assert late["version"] == "1.0.0"
        await device.step()
        assert device.state.phase is ModelPhase.SOAK
        device.post(release="1.1.0", counters={"accuracy": {"good": 8, "total": 10}})
        await device.until(lambda: "rolled_back 1.1.0" in device.told())

        failed = device.last("rolled_back")
        assert (failed.code, failed.serving_version) == ("counter_breach", "1.0.0")
        assert failed.evidence["posted"] == {"accuracy": {"good": 8, "total": 10}}
        assert failed.evidence["recovery_seconds"] >= 0

    stage.tell_of_candidate(story, factor=3.0, soak=COUNTED)


OF_ANSWERS = Reference.model_validate(
    {
        "samples": 100,
        "tensors": [
            {
                "name": "y",
                "side": "output",
                "elements": 400,
                "edges": [2, 4, 6],
                "counts": [100, 100, 100, 100],
            }
        ],
    }
).canonical_bytes()
DRIFTING = {"seconds": 600, "drift": {"outputs_max": 0.25, "requests_min": 10}}


async def drifts(device: LiveDevice, version: str) -> None:
    """Answers that the reference does not know, until that is noticed."""

    async def ask() -> None:
        with suppress(ModelSuspended):  # it may be taken away at any time
            await asyncio.to_thread(device.ask, 9, 9, 9, 9)
            await asyncio.sleep(SAMPLED_EVERY_SECONDS)

    await device.turn(lambda: f"rolled_back {version}" in device.told(), ask)


def test_answers_that_have_shifted_from_the_reference_roll_back(stage: Stage) -> None:
    async def story(device: LiveDevice) -> None:
        await device.until(lambda: device.state.phase is ModelPhase.SOAK)
        for _ in range(12):  # 1 3 5 7: as the reference
            device.ask()
            await asyncio.sleep(SAMPLED_EVERY_SECONDS)
            await device.step()
        assert device.state.phase is ModelPhase.SOAK
        shifts = device.runtime.live.shifts(MODEL, stage.candidate.digest)
        assert shifts
        assert shifts[0].shift == 0
        await drifts(device, "1.1.0")

        failed = device.last("rolled_back")
        assert failed.code == "drift"
        assert failed.evidence["shifts"][0]["tensor"] == "y"

    stage.tell_of_candidate(story, soak=DRIFTING, reference=OF_ANSWERS)


def test_what_was_sampled_in_an_earlier_stay_is_not_held_against_the_next(stage: Stage) -> None:
    a = stage.fleet.model_release("1.0.0", soak=DRIFTING, reference=OF_ANSWERS)

    async def story(device: LiveDevice) -> None:
        device.take(stage.fleet.current(a))
        await device.until(lambda: device.state.phase is ModelPhase.SOAK)
        await drifts(device, "1.0.0")
        await device.until(lambda: device.serving is None)
        device.take(stage.fleet.current(a, retry_epoch=1))
        await device.until(lambda: device.state.phase is ModelPhase.SOAK)
        await device.step()

        assert device.state.phase is ModelPhase.SOAK
        assert device.runtime.live.shifts(MODEL, a.digest) == ()

    stage.tell(story)


def test_a_reference_damaged_in_the_soak_lets_nothing_pass_and_blames_nobody(
    stage: Stage,
) -> None:
    reference = Reference.model_validate(
        {
            "samples": 1,
            "tensors": [
                {"name": "y", "side": "output", "elements": 1, "edges": [1], "counts": [1, 0]}
            ],
        }
    ).canonical_bytes()

    async def story(device: LiveDevice) -> None:
        await device.until(lambda: device.state.phase is ModelPhase.SOAK)
        path = device.store.path(hashlib.sha256(reference).hexdigest())
        path.chmod(0o644)
        path.write_bytes(reference.replace(b"output", b"input_"))
        await device.restart()
        await device.until(lambda: "returned 1.1.0" in device.told())

        assert device.last("returned").code == "storage_damaged"
        assert device.state.failed == {}
        await device.until(lambda: device.serving == "1.0.0")

    soak = {"seconds": 1, "requests_min": 1, "drift": {}}
    stage.tell_of_candidate(story, soak=soak, reference=reference)


@pytest.mark.parametrize(
    "reference",
    [
        b'{"format": "another"}',
        Reference.model_validate(  # of inputs alone, where the gate is on outputs
            {
                "samples": 1,
                "tensors": [
                    {"name": "x", "side": "input", "elements": 1, "edges": [1], "counts": [1, 0]}
                ],
            }
        ).canonical_bytes(),
    ],
    ids=["another format", "nothing to judge by"],
)
def test_reference_statistics_of_no_use_fail_the_trial(stage: Stage, reference: bytes) -> None:
    a = stage.fleet.model_release("1.0.0", soak={"seconds": 0, "drift": {}}, reference=reference)

    async def story(device: LiveDevice) -> None:
        device.take(stage.fleet.current(a))
        await device.until(lambda: "trial_failed 1.0.0" in device.told())

        assert device.last("trial_failed").code == "reference_unreadable"

    stage.tell(story)


def test_a_soak_cut_by_power_cuts_begins_anew_and_remembers_nothing_good_or_bad(
    stage: Stage,
) -> None:
    async def story(device: LiveDevice) -> None:
        for tries in (2, 1, 0):
            await device.until(lambda: device.state.phase is ModelPhase.SOAK)
            await device.until(lambda: device.serving == "1.1.0")
            assert device.state.tries == tries
            device.ask()
            # One short of a verdict, each time: what was seen goes with the process.
            device.post(release="1.1.0", counters={"accuracy": {"good": 0, "total": 9}})
            await device.step()
            assert (device.serving, device.state.phase) == ("1.1.0", ModelPhase.SOAK)
            device.clock_offset += timedelta(days=-400 if tries else 400)
            await device.restart()
        await device.until(lambda: "rolled_back 1.1.0" in device.told())

        failed = device.last("rolled_back")
        assert failed.code == "tries_exhausted"
        assert "cut short by a restart each time" in failed.because
        assert device.committed("1.0.0")

    stage.tell_of_candidate(story, soak=COUNTED)

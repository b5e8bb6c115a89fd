"""Releases with code of their own, and hostile ones, on a whole device."""

import json
import time
from typing import Any

import pytest

from agent_box import AgentBox, Play
from hostile_models import Hostile, hostile_models
from mailboat_agent.serving.provider_choice import NOT_BUILT_IN
from mailboat_agent.serving.tensors import Tensor
from mailboat_schemas.events import Event
from model_fleet import MODEL, ModelFleet, golden

TENSOR = {"dtype": "float32", "shape": [-1, 4]}
XY = {"inputs": [TENSOR | {"name": "x"}], "outputs": [TENSOR | {"name": "y"}]}
PREPARE = b"""\
import json

def prepare(inputs, bundle):
    return {"x": inputs["x"] * json.loads(bundle["scale.json"])}
"""
CODE = {"prepare.py": ("preprocess", PREPARE), "scale.json": ("calibration", b"3")}
PIPELINE = {"model_interface": XY, "preprocess": "prepare"}


def answer(box: AgentBox) -> tuple[Any, ...]:
    x = Tensor("x", "FP32", (1, 4), b"\0\0\x80\x3f" * 4)
    future = box.runtime.submit(
        MODEL,
        None,
        [x],
        [],
        deadline=time.monotonic() + 60,
        encode=lambda _release, inference: inference.outputs[0].values(),
    )
    return future.result(60)


def last(box: AgentBox, kind: str) -> Event:
    return [event for event in box.events() if event.kind == kind][-1]


def test_a_release_with_code_of_its_own_is_installed_and_serves(
    play: Play, fleet: ModelFleet
) -> None:
    coded = fleet.model_release("1.0.0", samples=golden(6.0), code=CODE, pipeline=PIPELINE)

    async def story(box: AgentBox) -> None:
        await box.install(fleet.current(coded), "1.0.0")
        assert answer(box) == (7.0,) * 4  # 2 (3 x) + 1

    play(story)


@pytest.mark.slow
def test_which_provider_was_taken_and_why_is_told_as_it_begins_to_serve(
    play: Play, fleet: ModelFleet
) -> None:
    liked = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    ref = fleet.model_release("1.0.0", runtime={"providers": liked})

    async def story(box: AgentBox) -> None:
        await box.install(fleet.current(ref), "1.0.0")

    trial = last(play(story), "soak_started").evidence["trial"]

    assert trial["provider"] == "CPUExecutionProvider"
    assert trial["passed_over"] == [f"CUDAExecutionProvider: {NOT_BUILT_IN}"]
    assert 0 < trial["latency_p50_ms"] <= trial["latency_p99_ms"]
    assert trial["peak_memory_bytes"] > 1 << 20


@pytest.mark.slow
def test_the_reason_of_a_hostile_model_is_in_its_event_and_kept(
    play: Play, fleet: ModelFleet
) -> None:
    good = fleet.model_release("1.0.0")
    chosen: list[tuple[str, Hostile]] = [
        (kind, models[index])
        for kind, models in hostile_models().items()
        for index in ((0, -1) if kind != "leak" else (0,))
    ]

    async def story(box: AgentBox) -> None:
        await box.install(fleet.current(good), "1.0.0")
        pid = box.runtime.worker_pid(MODEL)
        for number, (kind, hostile) in enumerate(chosen, start=1):
            version = f"1.{number}.0"
            await offer(box, hostile, version)

            failed = last(box, "trial_failed")
            assert failed.version == version
            assert failed.code in hostile.reasons, (kind, hostile.name, failed)
            kept = json.loads((box.directory / "evidence" / failed.evidence["kept"]).read_bytes())
            assert kept["reason"] == failed.code
            assert kept["version"] == version
            assert (box.serving, box.runtime.worker_pid(MODEL)) == ("1.0.0", pid)
            assert answer(box) == (3.0,) * 4

    async def offer(box: AgentBox, hostile: Hostile, version: str) -> None:
        bad = fleet.model_release(
            version,
            model=hostile.model,
            samples=golden(1.0, 0.0),
            code={path: (role.value, content) for path, (role, content) in hostile.files.items()},
            pipeline=None if hostile.pipeline is None else hostile.pipeline.model_dump(mode="json"),
            health={"deadline_seconds": hostile.deadline_seconds},
        )
        assert box.take(fleet.offered(bad, good))
        await box.until(lambda: f"trial_failed {version}" in box.told())
        await box.until(lambda: box.state.phase == "committed")

    play(story)

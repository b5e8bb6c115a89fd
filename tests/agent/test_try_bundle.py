"""Orders that `mailboat model` gives: each is carried out, or refused in words."""

import io
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest

import small_models
from mailboat_agent import try_bundle
from mailboat_agent.serving.process import InferenceFailed
from mailboat_agent.try_bundle import AnswersTooLarge, Trier
from mailboat_schemas.errors import OperatorNeeded


@pytest.fixture
def trier() -> Any:
    trier = Trier()
    yield trier
    trier.close()


def opening(path: Path, **change: Any) -> dict[str, Any]:
    return {
        "op": "open",
        "model": str(path),
        "providers": ["CPUExecutionProvider"],
        "threads": 1,
        "memory_bytes": 256 << 20,
        "seconds_max": 60,
        **change,
    }


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(small_models.classifier())
    return path


def samples(tmp_path: Path, count: int) -> dict[str, Any]:
    buffer = io.BytesIO()
    np.savez(buffer, **{"in.x": np.ones((count, 1, 16), np.float32)})
    (tmp_path / "inputs.npz").write_bytes(buffer.getvalue())
    return {
        "op": "infer",
        "inputs": str(tmp_path / "inputs.npz"),
        "answers": str(tmp_path / "answers"),
        "seconds_max": 60,
    }


def test_a_model_is_described_and_answers_every_sample(
    trier: Trier, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = trier.carry_out(opening(model))
    told = trier.carry_out(samples(tmp_path, 3))

    assert described["inputs"] == [["x", "FP32", ["batch", 16]]]
    assert described["provider"] == "CPUExecutionProvider"
    answers = msgpack.unpackb((tmp_path / "answers").read_bytes())
    assert told["samples"] == len(answers) == len(told["run_ms"]) == 3
    assert [output[:3] for output in answers[0]] == [["p", "FP32", [1, 4]]]
    assert told["peak_memory_bytes"] > 20 << 20

    monkeypatch.setattr(
        try_bundle, "GOLDEN_BYTES_MAX", 40
    )  # two answers of sixteen bytes, not three
    with pytest.raises(AnswersTooLarge):
        trier.carry_out(samples(tmp_path, 3))


def test_nothing_is_asked_before_a_model_is_open(trier: Trier, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no model is open"):
        trier.carry_out(samples(tmp_path, 1))


def test_an_order_that_is_none_is_no_trial(trier: Trier) -> None:
    with pytest.raises(ValueError, match="sell"):
        trier.carry_out({"op": "sell"})


@pytest.mark.slow
def test_a_provider_that_is_not_here_is_named_with_those_that_are(
    trier: Trier, model: Path
) -> None:
    with pytest.raises(OperatorNeeded, match=r"CUDAExecutionProvider.*CPUExecutionProvider"):
        trier.carry_out(opening(model, providers=["CUDAExecutionProvider"]))


@pytest.mark.slow
def test_a_model_that_needs_more_memory_than_it_may_have_is_refused(
    trier: Trier, tmp_path: Path
) -> None:
    path = tmp_path / "large.onnx"
    path.write_bytes(small_models.classifier(hidden=1 << 20))  # 80 MiB of weights

    with pytest.raises(InferenceFailed):
        trier.carry_out(opening(path, memory_bytes=1 << 20))

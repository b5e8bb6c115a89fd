"""A smaller variant of a model, and what that does to it: outputs, latency, memory, size."""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

from mailboat_controller.bundles.asking import Asked, RuntimeWish, ask, ask_seeded, open_model
from mailboat_controller.bundles.comparison import OutputComparison, compare, worst_drop
from mailboat_controller.bundles.device_process import DeviceProcess, ModelRefused
from mailboat_controller.bundles.given import given_samples
from mailboat_controller.bundles.npz import Arrays, npz_bytes
from mailboat_controller.bundles.promising import model_bytes
from mailboat_controller.bundles.samples import Recipe
from mailboat_schemas.errors import OperatorNeeded

ONNX = "onnx"  # of the extra `model`
MODULE = "mailboat_controller.bundles.quantizing"
QUANTIZE_SECONDS_MAX = 1800.0
TIMED_MIN = 40  # inferences: below that a p95 is one or two values
CALIBRATION_SAMPLES_MAX = 256  # more take minutes and change a scale in its third digit

Say = Callable[[str], None]


class To(StrEnum):
    INT8 = "int8"
    FP16 = "fp16"


class OnnxMissing(OperatorNeeded):
    """A model is rewritten with onnx, and it is not here."""

    code = "E-ONNX-MISSING"

    def __init__(self) -> None:
        super().__init__(
            "A model is rewritten with the library onnx, which is not here.",
            next_step="install the extra for it: pip install 'mailboat[model]'.",
        )


class NotQuantized(ModelRefused):
    """The tools cannot rewrite this model, or make nothing smaller of it."""

    code = "E-NOT-QUANTIZED"


class DropTooLarge(ModelRefused):
    """The smaller model answers too differently."""

    code = "E-DROP"

    def __init__(self, drop: float, allowed: float, worst: OutputComparison) -> None:
        what = "cosine" if worst.top_1 is None else "top-1 agreement"
        super().__init__(
            f"Output {worst.name!r} loses {drop:.2%} by {what}; {allowed:.2%} is allowed.",
            "calibrate with data like live traffic (--data), or take --weights-only, or fp16.",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    size_bytes: int
    latency_p50_ms: float
    latency_p95_ms: float
    peak_memory_bytes: int

    @property
    def told(self) -> dict[str, Any]:
        return {
            "size_bytes": self.size_bytes,
            "latency_p50_ms": round(self.latency_p50_ms, 4),
            "latency_p95_ms": round(self.latency_p95_ms, 4),
            "peak_memory_bytes": self.peak_memory_bytes,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Smaller:
    to: To
    method: str  # dynamic, static, fp16
    content: bytes
    original: Cost
    cost: Cost
    samples: int
    outputs: tuple[OutputComparison, ...]

    @property
    def drop(self) -> float:
        return worst_drop(self.outputs)

    @property
    def told(self) -> dict[str, Any]:
        return {
            "to": self.to.value,
            "method": self.method,
            "samples": self.samples,
            "original": self.original.told,
            "smaller": self.cost.told,
            "outputs": [comparison.told for comparison in self.outputs],
            "drop": self.drop,
        }

    def refuse_drop(self, allowed: float | None) -> None:
        """
        Raises:
            DropTooLarge
        """
        if allowed is not None and self.drop > allowed:
            worst = max(self.outputs, key=lambda comparison: comparison.drop)
            raise DropTooLarge(self.drop, allowed, worst)


def make_smaller(
    model: Path,
    to: To,
    *,
    recipe: Recipe,
    data: Path | None,
    wish: RuntimeWish,
    weights_only: bool = False,
    say: Say,
) -> Smaller:
    """Rewrite the model, and ask both the same questions in the device's worker.

    int8 with data calibrates activations with it, unless only weights are to become integers.

    Raises:
        OnnxMissing, NotQuantized, ModelRefused, ConfigurationInvalid
    """
    model_bytes(model)  # what is no ONNX model, or too large for one, is told before anything
    if importlib.util.find_spec(ONNX) is None:
        raise OnnxMissing
    with (
        tempfile.TemporaryDirectory(prefix="mailboat-smaller-") as scratch,
        DeviceProcess.start() as device,
    ):
        say(f"Asking {model.name}.")
        if data is None:
            _, asked = ask_seeded(device, model, wish, recipe, say)
        else:
            opened = open_model(device, model, wish)
            asked = ask(device, given_samples(data, opened.inputs).inputs)
        original = _cost(device, model, asked)
        made = Path(scratch) / "smaller.onnx"
        calibrated = data is not None and to is To.INT8 and not weights_only
        if calibrated and wish.own_code.preprocess is not None:
            say("Calibration takes the model's own inputs, the data has callers': only weights.")
            calibrated = False
        samples = _calibration(Path(scratch), asked.inputs) if calibrated else None
        say(f"Rewriting it as {to.value}{' with calibration' if samples else ''}.")
        method, again = _rewritten(device, model, made, to, samples, asked, wish, say)
        return Smaller(
            to=to,
            method=method,
            content=made.read_bytes(),
            original=original,
            cost=_cost(device, made, again),
            samples=len(asked.run_ms),
            outputs=compare(asked.outputs, again.outputs),
        )


_TRY_FP16 = "take the other format, or quantize it while exporting it."


def _rewritten(
    device: DeviceProcess,
    model: Path,
    made: Path,
    to: To,
    samples: Path | None,
    asked: Asked,
    wish: RuntimeWish,
    say: Say,
) -> tuple[str, Asked]:
    """The method, and what the smaller model answers; ``made`` holds it.

    Scales for each channel keep more, and there are models whose channels onnxruntime's tools get
    wrong: what is made does not load then, or is not made. Such a one gets one scale a tensor.
    """
    if samples is not None:
        try:
            return _rewritten_once(device, model, made, to, samples, asked, wish, per_channel=True)
        except ModelRefused:
            say("Scales for each channel make no working model of it; one scale a tensor.")
    return _rewritten_once(device, model, made, to, samples, asked, wish, per_channel=False)


def _rewritten_once(
    device: DeviceProcess,
    model: Path,
    made: Path,
    to: To,
    samples: Path | None,
    asked: Asked,
    wish: RuntimeWish,
    *,
    per_channel: bool,
) -> tuple[str, Asked]:
    method = _rewrite(model, to, made, samples, per_channel=per_channel)
    open_model(device, made, wish)
    again = ask(device, asked.inputs)
    try:
        compare(asked.outputs, again.outputs)
    except ValueError as error:
        raise NotQuantized(f"The rewritten model is another one: {error}.", _TRY_FP16) from error
    return method, again


def _calibration(scratch: Path, inputs: Arrays) -> Path:
    path = scratch / "calibration.npz"
    path.write_bytes(
        npz_bytes({name: array[:CALIBRATION_SAMPLES_MAX] for name, array in inputs.items()})
    )
    return path


def _rewrite(model: Path, to: To, target: Path, samples: Path | None, *, per_channel: bool) -> str:
    order = {
        "model": str(model.resolve()),
        "to": to.value,
        "out": str(target),
        "samples": None if samples is None else str(samples),
        "per_channel": per_channel,
    }
    try:
        done = subprocess.run(
            [sys.executable, "-m", MODULE],
            input=json.dumps(order) + "\n",
            capture_output=True,
            text=True,
            timeout=QUANTIZE_SECONDS_MAX,
            check=False,
            # Its tools leave files behind; they go with this directory.
            env=os.environ | {"TMPDIR": str(target.parent)},
            start_new_session=True,  # Ctrl-C is for the command, which ends it
        )
    except subprocess.TimeoutExpired:
        raise NotQuantized(
            f"It was not rewritten within {QUANTIZE_SECONDS_MAX:.0f} s.", _TRY_FP16
        ) from None
    if not done.stdout.endswith("\n"):
        words = done.stderr.strip().splitlines()
        problem = words[-1] if words else f"exit status {done.returncode}"
        raise NotQuantized(f"The process that rewrites it ended: {problem}.", _TRY_FP16)
    answer = json.loads(done.stdout)
    if "error" in answer:
        raise NotQuantized(f"It cannot be rewritten: {answer['error']}", _TRY_FP16)
    before, after = model.stat().st_size, target.stat().st_size
    if after >= before:
        raise NotQuantized(
            f"Nothing of it became smaller: {before} bytes before, {after} after.",
            "int8 takes MatMul, Gemm and LSTM, with --data convolutions too; or take fp16.",
        )
    return str(answer["method"])


def _cost(device: DeviceProcess, model: Path, asked: Asked) -> Cost:
    """Of the model that is open, asked again until there is something to take a p95 of."""
    times = list(asked.run_ms[1:] or asked.run_ms)  # the first warms up
    peak = asked.peak_memory_bytes
    while len(times) < TIMED_MIN:
        more = ask(device, asked.inputs)
        times += more.run_ms
        peak = max(peak, more.peak_memory_bytes)
    return Cost(
        size_bytes=model.stat().st_size,
        latency_p50_ms=_quantile(times, 0.50),
        latency_p95_ms=_quantile(times, 0.95),
        peak_memory_bytes=peak,
    )


def _quantile(values: Sequence[float], quantile: float) -> float:
    return float(np.quantile(np.array(values), quantile, method="inverted_cdf"))

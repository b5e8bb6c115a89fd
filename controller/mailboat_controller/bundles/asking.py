"""A model's answers from the agent's confined worker, sample by sample, as arrays."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from mailboat_controller.bundles.device_process import DeviceProcess, ModelRefused
from mailboat_controller.bundles.npz import Arrays, npz_bytes, stacked
from mailboat_controller.bundles.ports import OpenedModel
from mailboat_controller.bundles.samples import Recipe, guesses, seeded_inputs

MODEL_MEMORY_BYTES = 8 << 30  # while nothing is declared yet; what it takes is measured
INFERENCE_SECONDS_MAX = 60.0  # of one sample, and of loading
CHUNK_BYTES_MAX = 16 << 20  # of inputs in one order
HUNG = "E-WORKER-HUNG"
_AT_FAULT_MAYBE_INPUT = ("run_failed", "out_of_memory", "protocol", "")

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """``inputs`` and ``outputs`` by tensor, first axis = sample; ``run_ms`` of each sample."""

    inputs: Arrays
    outputs: Arrays
    run_ms: tuple[float, ...]
    peak_memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeWish:
    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    threads: int = 1


def open_model(device: DeviceProcess, model: Path, wish: RuntimeWish) -> OpenedModel:
    """
    Raises:
        ModelRefused: no device would load it.
    """
    answer = device.ask(
        {
            "op": "open",
            "model": str(model),
            "providers": list(wish.providers),
            "threads": wish.threads,
            "memory_bytes": MODEL_MEMORY_BYTES,
            "seconds_max": INFERENCE_SECONDS_MAX,
        }
    )
    return OpenedModel.of_answer(answer)


def ask(device: DeviceProcess, inputs: Arrays) -> Asked:
    """Every sample, one after the other, of the model that is open.

    Raises:
        ModelRefused: it does not answer one of them, or not in the same shape.
    """
    answers: list[Any] = []
    run_ms: list[float] = []
    peak = 0
    with tempfile.TemporaryDirectory(prefix="mailboat-samples-") as scratch:
        question, reply = Path(scratch) / "inputs.npz", Path(scratch) / "answers"
        for chunk in _chunks(inputs):
            question.write_bytes(npz_bytes({f"in.{name}": part for name, part in chunk.items()}))
            told = device.ask(
                {
                    "op": "infer",
                    "inputs": str(question),
                    "answers": str(reply),
                    "seconds_max": INFERENCE_SECONDS_MAX,
                }
            )
            answers += msgpack.unpackb(reply.read_bytes(), strict_map_key=False)
            run_ms += told["run_ms"]
            peak = max(peak, told["peak_memory_bytes"])
    try:
        outputs = stacked(answers)
    except ValueError as error:
        raise ModelRefused(
            f"Its outputs have different shapes for different samples: {error}.",
            "give samples that it answers in one shape (--data, --shape).",
        ) from error
    return Asked(inputs=inputs, outputs=outputs, run_ms=tuple(run_ms), peak_memory_bytes=peak)


def _chunks(inputs: Arrays) -> Iterator[Arrays]:
    count = len(next(iter(inputs.values())))
    sample_bytes = sum(array.nbytes for array in inputs.values()) // count
    step = max(1, CHUNK_BYTES_MAX // max(1, sample_bytes))
    for begin in range(0, count, step):
        yield {name: array[begin : begin + step] for name, array in inputs.items()}


def ask_seeded(
    device: DeviceProcess, model: Path, wish: RuntimeWish, recipe: Recipe, say: Say
) -> tuple[OpenedModel, Asked]:
    """Open the model and find inputs that it takes: one sample for each guess, then all of them.

    Raises:
        ModelRefused: it takes none; the reason is the first guess's.
        ConfigurationInvalid: the recipe does not fit it.
    """
    opened = open_model(device, model, wish)
    first: ModelRefused | None = None
    tried = list(guesses(opened.inputs, recipe))
    for guess in tried:
        inputs = seeded_inputs(opened.inputs, recipe, guess)
        try:
            ask(device, {name: array[:1] for name, array in inputs.items()})
            return opened, ask(device, inputs)
        except ModelRefused as refusal:
            # What hangs would hang once more with each guess.
            hopeless = refusal.kind not in _AT_FAULT_MAYBE_INPUT or refusal.agent_code == HUNG
            if hopeless or len(tried) == 1:
                raise
            first = first or refusal
            say(f"It does not take {guess.words}.")
            open_model(device, model, wish)  # the refusal has closed it
    assert first is not None  # noqa: S101 - there is at least one guess
    raise ModelRefused(
        f"It takes none of the inputs that were tried. The first time it said: {first.what}",
        "say what it takes with --shape, --value and --range, or give samples with --data.",
        agent_code=first.agent_code,
    ) from first


def same_bits(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two answers are equal to the last bit, NaN too."""
    return one.keys() == other.keys() and all(
        one[name].shape == other[name].shape and one[name].tobytes() == other[name].tobytes()
        for name in one
    )


def largest_difference(one: Arrays, other: Arrays) -> float:
    """Over all outputs that are numbers; infinite where shapes differ."""
    worst = 0.0
    for name, array in one.items():
        if array.dtype.kind not in "fiub":
            continue
        if array.shape != other[name].shape:
            return float("inf")
        if array.size:
            gap = np.abs(array.astype(np.float64) - other[name].astype(np.float64))
            worst = max(worst, float(np.nanmax(gap)))
    return worst


def as_golden(inputs: Arrays, outputs: Arrays, count: int) -> Arrays:
    """Arrays as a file of golden samples has them."""
    arrays = {f"in.{name}": array[:count] for name, array in inputs.items()}
    return arrays | {f"out.{name}": array[:count] for name, array in outputs.items()}

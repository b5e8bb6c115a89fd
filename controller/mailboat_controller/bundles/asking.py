"""A model's answers from the agent's confined worker, sample by sample, as arrays."""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from mailboat_controller.bundles.device_process import DeviceProcess, ModelRefused
from mailboat_controller.bundles.npz import Arrays, npz_bytes, stacked
from mailboat_controller.bundles.own_code import NO_CODE, OwnCode
from mailboat_controller.bundles.ports import OpenedModel
from mailboat_controller.bundles.samples import Recipe, guesses, seeded_inputs

MODEL_MEMORY_BYTES = 8 << 30  # while nothing is declared yet; what it takes is measured
INFERENCE_SECONDS_MAX = 60.0  # of one sample, and of loading
CHUNK_BYTES_MAX = 16 << 20  # of inputs in one order
ANSWERS_BYTES_MAX = 512 << 20  # of all samples; they are compared as a whole
HUNG = "E-WORKER-HUNG"
_AT_FAULT_MAYBE_INPUT = ("run_failed", "pipeline_failed", "out_of_memory", "protocol", "")

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
    own_code: OwnCode = NO_CODE

    @classmethod
    def of(cls, providers: Sequence[str] | None, threads: int, own_code: OwnCode) -> "RuntimeWish":
        """``providers`` are the CPU's where none are named."""
        wish = cls(threads=threads, own_code=own_code)
        return replace(wish, providers=tuple(providers)) if providers else wish


def open_model(device: DeviceProcess, model: Path, wish: RuntimeWish) -> OpenedModel:
    """
    Raises:
        ModelRefused: no device would load it.
    """
    own = wish.own_code
    order = {
        "op": "open",
        "model": str(model),
        "providers": list(wish.providers),
        "threads": wish.threads,
        "memory_bytes": MODEL_MEMORY_BYTES,
        "seconds_max": INFERENCE_SECONDS_MAX,
    }
    if not own.has_pipeline:
        return OpenedModel.of_answer(device.ask(order))
    outputs = own.outputs
    if not outputs:  # the model's own, which are not known yet
        outputs = OpenedModel.of_answer(device.ask(order)).model.outputs
    order |= {"files": own.files_order(), "pipeline": own.pipeline_order(outputs)}
    return OpenedModel.of_answer(device.ask(order), own.inputs, own.outputs)


def ask(device: DeviceProcess, inputs: Arrays) -> Asked:
    """Every sample, one after the other, of the model that is open.

    Raises:
        ModelRefused: it does not answer one of them, or not in the same shape.
    """
    answers: list[Any] = []
    run_ms: list[float] = []
    peak = size_bytes = 0
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
            size_bytes += reply.stat().st_size
            if size_bytes > ANSWERS_BYTES_MAX:
                raise ModelRefused(
                    f"The outputs of {len(run_ms) + told['samples']} samples are over "
                    f"{ANSWERS_BYTES_MAX} bytes.",
                    "ask fewer: --samples N, or less data.",
                )
            answers += msgpack.unpackb(reply.read_bytes(), strict_map_key=False)
            run_ms += told["run_ms"]
            peak = max(peak, told["peak_memory_bytes"])
    try:
        outputs = stacked(answers)
    except UnicodeDecodeError as error:
        raise ModelRefused(
            f"It answers text that is not UTF-8: {error.reason}.", "export it with UTF-8 text."
        ) from error
    except ValueError as error:
        raise ModelRefused(
            f"Its outputs cannot be compared sample by sample: {error}.",
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
    """Over all outputs that are numbers; infinite where shapes differ, or one alone is NaN."""
    worst = 0.0
    for name, array in one.items():
        if array.dtype.kind not in "fiub":
            continue
        if array.shape != other[name].shape:
            return float("inf")
        if array.size:
            ours, theirs = array.astype(np.float64), other[name].astype(np.float64)
            same = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
            with np.errstate(invalid="ignore"):  # inf - inf, which `same` has answered
                gaps = np.where(same, 0.0, np.abs(ours - theirs))
            worst = max(worst, float(np.nan_to_num(gaps, nan=np.inf, posinf=np.inf).max()))
    return worst


def as_golden(inputs: Arrays, outputs: Arrays, count: int) -> Arrays:
    """Arrays as a file of golden samples has them."""
    arrays = {f"in.{name}": array[:count] for name, array in inputs.items()}
    return arrays | {f"out.{name}": array[:count] for name, array in outputs.items()}

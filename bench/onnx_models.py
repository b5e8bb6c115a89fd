"""Every model of the `onnx` package's test data through our trial: `python -m bench.onnx_models`.

Each case of onnx.backend.test (one per operator and form, and the small and converted networks that
the wheel carries) becomes a release: its model, an interface from its reference tensors, golden
samples from its reference outputs with its own tolerances. It passes, or is refused with a reason;
the agent's side of it must be unharmed: no process left, no descriptor.
"""

import argparse
import hashlib
import io
import json
import os
import random
import re
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import onnxruntime
import psutil
from onnx.backend.test.case.node import collect_testcases
from onnx.backend.test.loader import load_model_tests

from mailboat_agent.sealed_memory import verified_memory
from mailboat_agent.serving.process import WorkerNotStarted
from mailboat_agent.serving.trial import GateFailed, run_trial
from mailboat_schemas.documents.health import Health
from mailboat_schemas.documents.interface import Interface
from mailboat_schemas.documents.release import File, FileRole, Runtime, Variant

DIRECTORIES = ("simple", "light", "pytorch-converted", "pytorch-operator")
PEAK_BYTES = 1 << 30
DEADLINE_SECONDS = 60
TRIALS_AT_ONCE = 2
RESULTS = Path(__file__).parents[1] / "docs" / "trial-results.md"
HEAD_CHARS, TAIL_CHARS = 70, 110  # of what is told of a refusal
TRIES_MAX = 3  # of a trial that could not be begun, as the agent does it
MARKS = "<!-- onnx models: begin -->", "<!-- onnx models: end -->"
_DTYPES = frozenset(
    {
        "bool",
        *(f"float{bits}" for bits in (16, 32, 64)),
        *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    }
)


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    family: str
    model: onnx.ModelProto
    inputs: tuple[Any, ...]
    outputs: tuple[Any, ...]
    rtol: float
    atol: float


@dataclass(frozen=True, slots=True)
class Outcome:
    name: str
    family: str
    reason: str  # empty: passed
    words: str = ""


class NotARelease(Exception):
    """The case has what a release's interface cannot say: sequences, optional values, 4-bit…"""


def all_cases() -> Iterator[Case]:
    """About two thousand, in a fixed order."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the reference implementations overflow on purpose
        nodes = collect_testcases(None)
    for case in sorted(nodes, key=lambda case: str(case.name)):
        if case.model is not None and case.data_sets:
            inputs, outputs = case.data_sets[0]
            yield Case(
                case.name,
                "node",
                case.model,
                tuple(inputs),
                tuple(outputs),
                case.rtol,
                case.atol,
            )
    for family in DIRECTORIES:
        for case in sorted(load_model_tests(kind=family), key=lambda case: str(case.name)):
            if case.model_dir is not None:
                yield _from_directory(case, family)


def _from_directory(case: Any, family: str) -> Case:
    directory = Path(case.model_dir)
    model = onnx.load_model(directory / "model.onnx")
    data = directory / "test_data_set_0"
    initialized = {each.name for each in model.graph.initializer}
    wanted = [each for each in model.graph.input if each.name not in initialized]
    return Case(
        case.name,
        family,
        model,
        _read(data, "input", wanted),
        _read(data, "output", model.graph.output),
        case.rtol,
        case.atol,
    )


def _read(directory: Path, side: str, values: Sequence[Any]) -> tuple[Any, ...]:
    found: list[Any] = []
    for number, value in enumerate(values):
        content = (directory / f"{side}_{number}.pb").read_bytes()
        if value.type.WhichOneof("value") != "tensor_type":
            found.append([])  # told apart later: it is no array
            continue
        tensor = onnx.TensorProto.FromString(content)
        found.append(onnx.numpy_helper.to_array(tensor))
    return tuple(found)


def tried(case: Case) -> Outcome:
    """One case through the trial; whatever is not a verdict comes out as it is."""
    try:
        named = _named(case)
        interface = _interface(named)
        samples = _golden(named)
    except NotARelease as error:
        return Outcome(case.name, case.family, "not_a_release", str(error))
    model = case.model.SerializeToString()
    for _ in range(TRIES_MAX):
        try:
            _try(model, samples, interface, _variant(model, case, named["out"]))
        except GateFailed as error:
            return Outcome(case.name, case.family, error.reason, " ".join(error.what.split()))
        except WorkerNotStarted:
            continue
        return Outcome(case.name, case.family, "")
    return Outcome(case.name, case.family, "no_worker", "no worker process could be started")


def _try(model: bytes, samples: bytes, interface: Interface, variant: Variant) -> None:
    descriptors = [_descriptor(model), _descriptor(samples)]
    try:
        run_trial(
            model_fd=descriptors[0],
            golden_fd=descriptors[1],
            interface=interface,
            variant=variant,
            memory_limit_bytes=PEAK_BYTES,
        )
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _named(case: Case) -> dict[str, dict[str, Any]]:
    graph = case.model.graph
    initialized = {each.name for each in graph.initializer}
    wanted = [each.name for each in graph.input if each.name not in initialized]
    given = [each.name for each in graph.output]
    sides = {}
    for side, names, arrays in (("in", wanted, case.inputs), ("out", given, case.outputs)):
        if len(names) != len(arrays):
            raise NotARelease("it leaves out an optional value")
        sides[side] = {name: _array(name, each) for name, each in zip(names, arrays, strict=True)}
    if not sides["in"] or not sides["out"]:
        raise NotARelease("it has no input, or no output")
    return sides


def _array(name: str, value: Any) -> Any:
    if isinstance(value, onnx.TensorProto):
        value = onnx.numpy_helper.to_array(value)
    if isinstance(value, np.generic | float | int | bool):
        value = np.asarray(value)
    if not isinstance(value, np.ndarray):
        raise NotARelease("it takes or gives a sequence, a map or an optional value")
    if value.dtype.kind in "OUS":
        value = value.astype(np.str_)
    elif value.dtype.name not in _DTYPES:
        raise NotARelease(f"a tensor of type {value.dtype.name}")
    if value.ndim > 7:
        raise NotARelease(f"{name} has {value.ndim} dimensions")
    if value.dtype.kind == "U" and any("\0" in text for text in value.ravel()):
        raise NotARelease("a text that ends with a zero")
    return value


def _interface(named: dict[str, dict[str, Any]]) -> Interface:
    """With the very shapes of the reference tensors."""

    def side(arrays: dict[str, Any]) -> list[dict[str, Any]]:
        return [
            {
                "name": name,
                "dtype": "string" if array.dtype.kind == "U" else array.dtype.name,
                "shape": list(array.shape),
            }
            for name, array in arrays.items()
        ]

    try:
        return Interface.model_validate(
            {"inputs": side(named["in"]), "outputs": side(named["out"])}
        )
    except ValueError as error:
        raise NotARelease(str(error).splitlines()[-1].strip()) from error


def _golden(named: dict[str, dict[str, Any]]) -> bytes:
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {
        f"{side}.{name}": np.ascontiguousarray(array[np.newaxis])
        for side, arrays in named.items()
        for name, array in arrays.items()
    }
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _variant(model: bytes, case: Case, outputs: dict[str, Any]) -> Variant:
    return Variant(
        hardware_classes=("bench",),
        files=(
            File(
                path="model.onnx",
                role=FileRole.MODEL,
                sha256=hashlib.sha256(model).hexdigest(),
                length=len(model),
            ),
        ),
        runtime=Runtime(),
        peak_memory=PEAK_BYTES,
        health=Health(
            tolerances={name: _tolerance(array, case) for name, array in outputs.items()},
            deadline_seconds=DEADLINE_SECONDS,
        ),
    )


def _tolerance(golden: Any, case: Case) -> float:
    """The case's own, as numpy.allclose has it, for the largest element."""
    if golden.dtype.kind not in "fiu" or not golden.size:
        return 0.0
    finite = np.abs(golden.astype(np.float64))[np.isfinite(golden.astype(np.float64))]
    return float(case.atol + case.rtol * (finite.max() if finite.size else 0.0))


def _descriptor(content: bytes) -> int:
    return verified_memory([content], hashlib.sha256(content).hexdigest())


def run(cases: Sequence[Case], *, at_once: int = TRIALS_AT_ONCE) -> list[Outcome]:
    """Raises AssertionError if anything of a trial is left behind."""
    own = psutil.Process()
    before = own.num_fds()
    with ThreadPoolExecutor(at_once) as pool:
        outcomes = list(pool.map(tried, cases))
    assert not own.children(), "a worker is left"
    assert own.num_fds() <= before + at_once, "descriptors are left"
    return outcomes


def sample(count: int, seed: int) -> list[Case]:
    cases = list(all_cases())
    return random.Random(seed).sample(cases, min(count, len(cases)))


# --- the report ----------------------------------------------------------------------------------


def report(outcomes: Sequence[Outcome], seconds: float) -> str:
    reasons = Counter(outcome.reason for outcome in outcomes)
    families = sorted({outcome.family for outcome in outcomes})
    order = ["", *sorted(reason for reason in reasons if reason)]
    versions = f"`onnx` {onnx.__version__} on onnxruntime {onnxruntime.__version__}"
    lines = [
        f"{len(outcomes)} models of {versions}, {seconds:.0f} s, {TRIALS_AT_ONCE} at once.",
        "",
        "| | " + " | ".join(families) + " | all |",
        "|---|" + "--:|" * (len(families) + 1),
    ]
    for reason in order:
        counts = [
            sum(o.family == family and o.reason == reason for o in outcomes) for family in families
        ]
        name = f"refused: `{reason}`" if reason else "**passed**"
        lines.append(f"| {name} | " + " | ".join(map(str, counts)) + f" | {reasons[reason]} |")
    for reason in order[1:]:
        lines += ["", f"`{reason}`, the most frequent in words:", ""]
        words = Counter(_shortened(o.words) for o in outcomes if o.reason == reason)
        lines += [f"* {count} × {text}" for text, count in words.most_common(8)]
        names = [o.name for o in outcomes if o.reason == reason]
        if len(names) <= 40:
            lines += ["", f"  ({', '.join(f'`{name}`' for name in names)})"]
    return "\n".join(lines) + "\n"


def _shortened(words: str) -> str:
    """Without what differs from model to model: which sample, which operator, where in a file."""
    if "Could not find an implementation for" in words:
        return "Could not find an implementation for an operator and type"
    text = (
        words.split("the worst is", 1)[-1].split(": ", 1)[-1] if "the worst is" in words else words
    )
    text = re.sub(r"\[ONNXRuntimeError\] : \d+ : |/onnxruntime_src/\S+", "", text)
    if len(text) <= HEAD_CHARS + TAIL_CHARS:
        return text
    return f"{text[:HEAD_CHARS]} … {text[-TAIL_CHARS:]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=int, help="so many, seeded, instead of all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--write", action="store_true", help=f"into {RESULTS.name}")
    arguments = parser.parse_args()
    cases = sample(arguments.sample, arguments.seed) if arguments.sample else list(all_cases())
    started = time.monotonic()
    outcomes = run(cases)
    text = report(outcomes, time.monotonic() - started)
    if arguments.json:
        json.dump([asdict(outcome) for outcome in outcomes], sys.stdout, indent=1)
    else:
        sys.stdout.write(text)
    if arguments.write:
        page = RESULTS.read_text(encoding="utf-8")
        head, _, rest = page.partition(MARKS[0])
        tail = rest.partition(MARKS[1])[2]
        RESULTS.write_text(f"{head}{MARKS[0]}\n{text}{MARKS[1]}{tail}", encoding="utf-8")


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        main()

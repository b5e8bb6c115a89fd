"""A bundle made from a model: asked, promised, measured, and tried with what it promises.

The same model, the same recipe or data, and the same declarations give the same bytes. What was
measured goes into ``measured.json`` beside the release, not into it.
"""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from mailboat_controller.bundles import statistics
from mailboat_controller.bundles.asking import Asked, RuntimeWish, as_golden, ask_seeded
from mailboat_controller.bundles.device_process import DeviceProcess, ModelRefused
from mailboat_controller.bundles.drafting import (
    GOLDEN,
    MODEL,
    REFERENCE,
    Draft,
    build_draft,
    earlier_declarations,
    open_build,
)
from mailboat_controller.bundles.npz import Arrays, npz_bytes
from mailboat_controller.bundles.ports import OpenedModel
from mailboat_controller.bundles.promising import (
    answers_again,
    ask_with_data,
    model_bytes,
    opset_of,
    refuse_batches,
)
from mailboat_controller.bundles.proposal import (
    INT8_FACTOR,
    Declared,
    Measured,
    declare,
    runtime_range,
    tolerances,
)
from mailboat_controller.bundles.samples import Recipe
from mailboat_controller.bundles.smaller import Smaller, To, make_smaller
from mailboat_controller.bundles.trying import Outcome, run_trial
from mailboat_controller.durable_file import PUBLIC_MODE, replace_durably
from mailboat_controller.releases.build import Build
from mailboat_schemas.documents.hardware_class import HardwareClass
from mailboat_schemas.documents.release import Runtime

MEASURED = "measured.json"
MEASURING_BUDGET_BYTES = 8 << 30
GOLDEN_BYTES_AIM = 32 << 20  # half of what a device reads

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to make of which model. ``described`` are those of ``classes`` whose YAML was given."""

    model: Path
    directory: Path
    name: str
    version: str
    classes: tuple[str, ...]
    described: tuple[HardwareClass, ...] = ()
    recipe: Recipe = field(default_factory=Recipe)
    data: Path | None = None
    wish: RuntimeWish = field(default_factory=RuntimeWish)
    quantize: To | None = None
    weights_only: bool = False
    max_drop: float | None = None  # see `Smaller.drop`
    batches: tuple[int, ...] = ()  # sizes whose latency every trial measures
    # Told by the person instead of measured.
    peak_memory_bytes: int | None = None
    latency_p95_ms_max: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    build: Build
    opened: OpenedModel
    opset: int | None
    outcome: Outcome  # of the trial with the limits that the release declares
    asked: Asked
    identical: bool  # to the bit, in two processes
    declared: Declared
    smaller: Smaller | None = None  # what was made of the model first


def make_bundle(order: Order, say: Say) -> Bundle:
    """Write the bundle and its build; the trial's verdict is in the outcome.

    Raises:
        ModelRefused: a device would refuse it, and why.
        ConfigurationInvalid: the recipe or the data does not fit it.
    """
    if order.quantize is None:
        return _make(order, None, say)
    model_bytes(order.model)
    smaller = make_smaller(
        order.model,
        order.quantize,
        recipe=order.recipe,
        data=order.data,
        wish=order.wish,
        weights_only=order.weights_only,
        say=say,
    )
    smaller.refuse_drop(order.max_drop)
    with tempfile.TemporaryDirectory(prefix="mailboat-smaller-") as scratch:
        made = Path(scratch) / order.model.name
        made.write_bytes(smaller.content)
        return _make(replace(order, model=made), smaller, say)


def _make(order: Order, smaller: Smaller | None, say: Say) -> Bundle:
    content = model_bytes(order.model)
    opset = opset_of(content)
    with DeviceProcess.start() as device:
        say(f"Loading {order.model.name} as a device would.")
        if order.data is None:
            opened, asked = ask_seeded(device, order.model, order.wish, order.recipe, say)
            promised = asked.outputs
        else:
            opened, asked, promised = ask_with_data(device, order.model, order.wish, order.data)
        interface = opened.interface()
        refuse_batches(order.batches, opened)
        say(f"Asking the same {len(asked.run_ms)} samples again, in another process.")
        identical = answers_again(device, order.model, order.wish, asked)
        order.directory.mkdir(parents=True, exist_ok=True)
        golden = as_golden(asked.inputs, promised, _golden_count(order, asked.inputs, promised))
        _write(order.directory / MODEL, content)
        _write(order.directory / GOLDEN, npz_bytes(golden))
        if order.data is None:
            (order.directory / REFERENCE).unlink(missing_ok=True)
            say("No reference statistics: made-up inputs are nothing to compare live traffic with.")
        else:
            reference = statistics.reference(asked.inputs, asked.outputs)
            _write(order.directory / REFERENCE, reference.canonical_bytes())
        draft = Draft(
            name=order.name,
            version=order.version,
            classes=order.classes,
            interface=interface,
            runtime=Runtime(
                version=runtime_range(opset, opened.runtime_version),
                providers=order.wish.providers,
                threads=order.wish.threads,
            ),
            tolerances=tolerances(promised, INT8_FACTOR if order.quantize is To.INT8 else 1.0),
            with_reference=order.data is not None,
            batches=order.batches,
        )
        say("Measuring: a trial with open gates.")
        measured = _measure(device, order.directory, draft)
        declared = _declared(order, measured, earlier_declarations(order.directory, order.classes))
        build = build_draft(order.directory, draft, declared)
        say("Trying it with the limits it declares.")
        outcome = run_trial(device, build, order.classes[0], _budget_bytes(order, declared))
    bundle = Bundle(
        build=build,
        opened=opened,
        opset=opset,
        outcome=outcome,
        asked=asked,
        identical=identical,
        declared=declared,
        smaller=smaller,
    )
    _write(order.directory / MEASURED, _measured_json(bundle))
    return bundle


def _golden_count(order: Order, inputs: Arrays, outputs: Arrays) -> int:
    arrays = (*inputs.values(), *outputs.values())
    sample_bytes = sum(array.nbytes // len(array) for array in arrays)
    return max(1, min(order.recipe.samples, GOLDEN_BYTES_AIM // max(1, sample_bytes)))


def _measure(device: DeviceProcess, directory: Path, draft: Draft) -> Measured:
    """
    Raises:
        ModelRefused: the trial fails even with open gates.
    """
    with open_build(directory, draft) as build:
        outcome = run_trial(device, build, draft.classes[0], MEASURING_BUDGET_BYTES)
    if not outcome.passed:
        raise ModelRefused(
            f"A device would refuse it ({outcome.reason}): {outcome.what}",
            "mend the model, or say what it takes with --shape, --value, --range or --data.",
            agent_code=outcome.reason,
        )
    return Measured(
        peak_memory_bytes=outcome.report["peak_memory_bytes"],
        latency_p95_ms=outcome.report["latency_p95_ms"],
        cold_start_ms=outcome.report["cold_start_ms"],
        trial_seconds=outcome.seconds,
        batches={
            batch["batch_size"]: batch["latency_p95_ms"]
            for batch in outcome.report.get("batches", ())
        },
    )


def _declared(order: Order, measured: Measured, earlier: Declared | None) -> Declared:
    found = declare(measured, earlier)
    return replace(
        found,
        peak_memory_bytes=order.peak_memory_bytes or found.peak_memory_bytes,
        latency_p95_ms_max=order.latency_p95_ms_max or found.latency_p95_ms_max,
    )


def _budget_bytes(order: Order, declared: Declared) -> int:
    budgets = (described.spec.memory_budget for described in order.described)
    return min((declared.peak_memory_bytes, *budgets))


def _measured_json(bundle: Bundle) -> bytes:
    content = {
        "digest": bundle.build.digest,
        "opset": bundle.opset,
        "runtime": bundle.opened.runtime_version,
        "provider": bundle.opened.provider,
        "samples": len(bundle.asked.run_ms),
        "answers_identical": bundle.identical,
        "trial": bundle.outcome.told,
        "quantized": None if bundle.smaller is None else bundle.smaller.told,
    }
    return (json.dumps(content, indent=2, default=str) + "\n").encode()


def _write(path: Path, content: bytes) -> None:
    replace_durably(path, content, mode=PUBLIC_MODE)

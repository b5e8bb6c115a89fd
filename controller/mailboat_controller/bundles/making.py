"""A bundle made from a model: asked, promised, measured, and tried with what it promises.

The same model, the same recipe or data, and the same declarations give the same bytes. What was
measured goes into ``measured.json`` beside the release, not into it.

All of it is made in a hidden directory and put in place at the end, so an interrupted build leaves
what was there before.
"""

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mailboat_controller.bundles import judging, statistics
from mailboat_controller.bundles.asking import Asked, as_golden, ask, ask_seeded
from mailboat_controller.bundles.device_process import DeviceProcess, ModelRefused
from mailboat_controller.bundles.drafting import (
    BUILD,
    GOLDEN,
    MODEL,
    REFERENCE,
    RELEASE,
    Draft,
    build_draft,
    earlier_declarations,
    open_build,
)
from mailboat_controller.bundles.given import given_samples
from mailboat_controller.bundles.latencies import latencies
from mailboat_controller.bundles.npz import Arrays, npz_bytes
from mailboat_controller.bundles.order import Order
from mailboat_controller.bundles.ports import OpenedModel
from mailboat_controller.bundles.promising import (
    Promise,
    answers_again,
    ask_with_data,
    judged_by_decisions,
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
from mailboat_controller.bundles.smaller import Smaller, To, make_smaller
from mailboat_controller.bundles.trying import Outcome, run_trial
from mailboat_controller.durable_file import PUBLIC_MODE, replace_durably
from mailboat_controller.releases.build import Build, build_release
from mailboat_schemas.documents.release import Runtime

MEASURED = "measured.json"
MEASURING_BUDGET_BYTES = 8 << 30
GOLDEN_BYTES_AIM = 32 << 20  # half of what a device reads
_MEND = "mend the model, or say what it takes with --shape, --value, --range or --data."
_NEXT_STEPS = {
    "batch_unsupported": "leave out --batch.",
    "bundle_too_large": "leave out files that its code does not read.",
    "pipeline_failed": "mend the function, and try again (docs/bundles.md).",
    "check_failed": "mend the model, or the check (docs/trial.md).",
    "check_broken": "mend the check (docs/trial.md).",
}

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    build: Build
    opened: OpenedModel
    opset: int | None
    outcome: Outcome  # of the trial with the limits that the release declares
    asked: Asked
    identical: bool  # to the bit, in two processes
    declared: Declared
    accuracy: dict[str, float]  # of outputs that are judged by their decisions
    smaller: Smaller | None = None  # what was made of the model first


def make_bundle(order: Order, say: Say) -> Bundle:
    """Write the bundle and its build; the trial's verdict is in the outcome.

    Raises:
        ModelRefused: a device would refuse it, and why.
        ConfigurationInvalid: the order, the recipe or the data does not fit it.
    """
    order.refuse_unfit()
    content = model_bytes(order.model)
    # Inside the target if it is there: it may be a mount, and its parent not ours to write to.
    place = order.directory if order.directory.is_dir() else order.directory.parent
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{order.directory.name}-", dir=place) as made:
        smaller = None
        if order.quantize is not None:
            smaller = _make_smaller(order, order.quantize, say)
            content = smaller.content
        return _make(order, Path(made), content, smaller, say)


def _make_smaller(order: Order, to: To, say: Say) -> Smaller:
    smaller = make_smaller(
        order.model,
        to,
        recipe=order.recipe,
        data=order.data,
        wish=order.wish,
        weights_only=order.weights_only,
        say=say,
    )
    smaller.refuse_drop(order.max_drop)
    return smaller


def _make(order: Order, made: Path, content: bytes, smaller: Smaller | None, say: Say) -> Bundle:
    model = made / MODEL
    _write(model, content)
    opset = opset_of(content)
    with DeviceProcess.start() as device:
        say(f"Loading {order.model.name} as a device would.")
        promise = _promise(order, device, model, say)
        opened, asked = promise.opened, promise.asked
        refuse_batches(order.batches, opened)
        say(f"Asking the same {len(asked.run_ms)} samples again, in another process.")
        identical = answers_again(device, model, order.wish, asked)
        count = _golden_count(order, asked.inputs, promise.promised)
        _write(made / GOLDEN, npz_bytes(as_golden(asked.inputs, promise.promised, count)))
        with_reference = _write_reference(order, device, made, promise, say)
        for _, path in order.wish.own_code.files():
            shutil.copyfile(path, made / path.name)
        draft = _draft(order, promise, opset, count, with_reference=with_reference)
        say("Measuring: a trial with open gates.")
        measured = _measure(device, made, draft)
        declared = _declared(order, measured, earlier_declarations(order.directory, order.classes))
        build = build_draft(made, draft, declared)
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
        accuracy=dict(promise.accuracy),
        smaller=smaller,
    )
    _write(made / MEASURED, _measured_json(bundle))
    return replace(bundle, build=_put_in_place(made, order.directory))


def _promise(order: Order, device: DeviceProcess, model: Path, say: Say) -> Promise:
    if order.data is not None:
        return ask_with_data(device, model, order.wish, order.data, order.labels)
    opened, asked = ask_seeded(device, model, order.wish, order.recipe, say)
    judged = judging.classifiers(asked.outputs, order.labels)
    accuracy = judged_by_decisions(asked.outputs, asked.outputs, judged)
    return Promise(opened=opened, asked=asked, promised=asked.outputs, accuracy=accuracy)


def _write_reference(
    order: Order, device: DeviceProcess, made: Path, promise: Promise, say: Say
) -> bool:
    """Statistics of the samples that are like live traffic, if there are some."""
    asked = promise.asked
    if order.reference is not None:
        say("Asking what live traffic is compared with.")
        asked = ask(device, given_samples(order.reference, promise.opened.inputs).inputs)
    elif order.data is None:
        say("No reference statistics: made-up inputs are nothing to compare live traffic with.")
        return False
    reference = statistics.reference(asked.inputs, asked.outputs)
    _write(made / REFERENCE, reference.canonical_bytes())
    return True


def _draft(
    order: Order, promise: Promise, opset: int | None, count: int, *, with_reference: bool
) -> Draft:
    opened, promised = promise.opened, promise.promised
    metrics = {}
    for name in promise.accuracy:
        golden = promised[name][:count]  # what a device sees of them
        measured = judging.agreement(golden, promise.asked.outputs[name][:count])
        metrics[name] = judging.metric_gate(measured, golden.size // golden.shape[-1])
    judged_by_size = {name: array for name, array in promised.items() if name not in metrics}
    return Draft(
        name=order.name,
        version=order.version,
        classes=order.classes,
        interface=opened.interface(),
        model=opened.model,
        runtime=Runtime(
            version=runtime_range(opset, opened.runtime_version),
            providers=order.wish.providers,
            threads=order.wish.threads,
        ),
        tolerances=tolerances(judged_by_size, INT8_FACTOR if order.quantize is To.INT8 else 1.0),
        with_reference=with_reference,
        batches=order.batches,
        metrics=metrics,
        watches_drift=order.reference is not None,
        own_code=order.wish.own_code,
    )


def _put_in_place(made: Path, directory: Path) -> Build:
    """File by file, the release's description last; then its build, which is made of them."""
    directory.mkdir(exist_ok=True)
    files = [path for path in made.iterdir() if path.is_file()]
    for path in files:
        path.chmod(PUBLIC_MODE)
    for path in sorted(files, key=lambda path: (path.name == RELEASE, path.name)):
        path.replace(directory / path.name)
    if REFERENCE not in {path.name for path in files}:
        (directory / REFERENCE).unlink(missing_ok=True)  # of a build before this one
    return build_release(directory / RELEASE, directory / BUILD)


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
            _NEXT_STEPS.get(outcome.reason, _MEND),
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
        throughputs={
            row.batch_size: row.per_second
            for row in latencies([outcome])
            if row.batch_size in draft.batches and row.per_second
        },
    )


def _declared(order: Order, measured: Measured, earlier: Declared | None) -> Declared:
    found = declare(measured, earlier)
    if order.peak_memory_bytes is not None:
        found = replace(found, peak_memory_bytes=order.peak_memory_bytes)
    if order.latency_p95_ms_max is not None:
        found = replace(found, latency_p95_ms_max=order.latency_p95_ms_max)
    return found


def _budget_bytes(order: Order, declared: Declared) -> int:
    budgets = (described.spec.memory_budget for described in order.described)
    return min((declared.peak_memory_bytes, *budgets))


def _measured_json(bundle: Bundle) -> bytes:
    return (json.dumps(told(bundle), indent=2, default=str) + "\n").encode()


def told(bundle: Bundle) -> dict[str, Any]:
    """What was measured, for programs."""
    return {
        "digest": bundle.build.digest,
        "opset": bundle.opset,
        "runtime": bundle.opened.runtime_version,
        "provider": bundle.opened.provider,
        "samples": len(bundle.asked.run_ms),
        "answers_identical": bundle.identical,
        "accuracy": bundle.accuracy,
        "trial": bundle.outcome.told,
        "quantized": None if bundle.smaller is None else bundle.smaller.told,
    }


def _write(path: Path, content: bytes) -> None:
    replace_durably(path, content, mode=PUBLIC_MODE)

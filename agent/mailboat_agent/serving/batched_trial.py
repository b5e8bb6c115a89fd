"""The batch sizes of a release in its trial: answered as alone, in time, within its memory."""

from collections.abc import Sequence
from itertools import islice

from mailboat_agent.serving.batching import CannotSplit, can_be_joined, join_key, joined, split
from mailboat_agent.serving.gate_failed import GateFailed
from mailboat_agent.serving.golden import Golden
from mailboat_agent.serving.golden_verdict import GoldenVerdict
from mailboat_agent.serving.process import Inference
from mailboat_agent.serving.provider_choice import Loaded
from mailboat_agent.serving.tensors import TENSOR_BYTES_MAX, Tensor
from mailboat_agent.serving.timing import BATCH_WARM_UP_RUNS, Timing, batch_runs, timing
from mailboat_agent.serving.trial_worker import TrialWorkers
from mailboat_schemas.documents.release import Variant


def try_batches(workers: TrialWorkers, loaded: Loaded, golden: Golden) -> tuple[Timing, ...]:
    """Every declared size above one, the smallest first; the largest makes the peak of memory.

    Raises:
        GateFailed, and as `TrialWorkers.infer`
    """
    variant = workers.release.variant
    sizes = sorted(size for size in _sizes(variant) if size > 1)
    if not sizes:
        return ()
    if not can_be_joined(workers.release.interface) or join_key(golden.inputs[0], ()) is None:
        if any(gate.size > 1 for gate in variant.health.batches):
            raise GateFailed(
                "batch_unsupported",
                "Batches are declared, and not every input and output has a free first dimension.",
                {"batch_sizes": sizes},
            )
        return ()  # served one by one, whatever batch_size_max says
    return tuple(_try(workers, loaded, golden, size) for size in sizes)


def _sizes(variant: Variant) -> set[int]:
    declared = {gate.size for gate in variant.health.batches}
    return declared if variant.serving is None else declared | {variant.serving.batch_size_max}


def _try(workers: TrialWorkers, loaded: Loaded, golden: Golden, size: int) -> Timing:
    workers.stage = f"a batch of {size}"
    rows = _rows(golden, 0)
    samples = [i % len(golden) for i in range(max(1, size // rows))]
    inputs = joined([golden.inputs[sample] for sample in samples])
    largest = max(sum(map(len, tensor.parts)) for tensor in inputs)
    if largest > TENSOR_BYTES_MAX:
        raise GateFailed(
            "batch_unsupported",
            f"A batch of {size} has an input of {largest} bytes, {TENSOR_BYTES_MAX} are possible.",
            {"batch_size": size, "bytes": largest},
        )
    _, outputs = workers.infer(loaded, inputs)
    _refuse_other_answers(golden, workers, outputs, samples, size)
    warm_ms = 0.0
    for _ in range(BATCH_WARM_UP_RUNS - 1):  # the first is the one above
        warm_ms, _ = workers.infer(loaded, inputs)
    latencies = [workers.infer(loaded, inputs)[0] for _ in range(batch_runs(warm_ms))]
    return timing(size, latencies, rows=sum(_rows(golden, sample) for sample in samples))


def _rows(golden: Golden, sample: int) -> int:
    return max(1, golden.inputs[sample][0].shape[0])


def _refuse_other_answers(
    golden: Golden,
    workers: TrialWorkers,
    outputs: Sequence[Tensor],
    samples: Sequence[int],
    size: int,
) -> None:
    """A row's answer must not depend on its neighbours: each sample is answered once as alone."""
    rows = [_rows(golden, sample) for sample in samples]
    try:
        parts = split(Inference(tuple(outputs), 0.0), rows)
    except CannotSplit as error:
        raise GateFailed(
            "batch_unsupported",
            f"A batch of {size} is not answered row by row: {error}.",
            {"batch_size": size},
        ) from error
    verdict = GoldenVerdict(golden, workers.release.variant.health)
    for sample, part in islice(zip(samples, parts, strict=True), len(golden)):
        verdict.add(sample, part.outputs)
    verdict.refuse(f" in a batch of {size}")

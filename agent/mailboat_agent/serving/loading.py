"""A worker brought to where it can serve: started, loaded, held against the document, warm."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from mailboat_agent.serving.batching import can_be_joined, joined
from mailboat_agent.serving.interface import differences, smallest_inputs
from mailboat_agent.serving.launch import Launch
from mailboat_agent.serving.priority import be_equal
from mailboat_agent.serving.process import Description, InferenceFailed, Worker
from mailboat_agent.serving.provider_choice import Loadable, load_on_declared_provider
from mailboat_agent.serving.served_release import ServedRelease
from mailboat_agent.serving.tensors import TENSOR_BYTES_MAX, BadTensors, Tensor
from mailboat_schemas.errors import ReleaseRejected

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoadedWorker:
    worker: Worker
    description: Description


def load_worker(release: ServedRelease, model_fd: int, launch: Launch) -> LoadedWorker:
    """A worker that holds the release and has run it.

    Raises:
        WorkerNotStarted, WorkerDied, WorkerHung, InferenceFailed, RuntimeUnsupported
    """
    seconds = release.variant.health.deadline_seconds
    loadable = Loadable(
        model_fd=model_fd,
        interface=release.interface,
        variant=release.variant,
        memory_bytes=release.memory_bytes,
        bundle=release.bundle,
    )
    workers: list[Worker] = []
    try:
        loaded = load_on_declared_provider(
            loadable,
            launch,
            remaining_seconds=lambda: seconds,
            started=workers.append,
            makes_way=True,
        )
        _refuse_other_interface(loadable, loaded.model)
        _warm_up(loaded.worker, release, seconds)
        be_equal(loaded.worker.pid)
    except BaseException:
        for worker in workers:
            worker.kill()
        raise
    return LoadedWorker(loaded.worker, loaded.callers)


def _refuse_other_interface(release: Loadable, model: Description) -> None:
    if found := differences(release.model_interface, model):
        what = f"it is not what its document declares: {found[0]}"
        raise InferenceFailed("load_failed", what)


def _warm_up(worker: Worker, release: ServedRelease, seconds: float) -> None:
    """Have onnxruntime allocate before the first caller waits for it, for a full batch too.

    A model may well refuse zeros of the smallest shape; that is no verdict. Dying of them is.
    """
    try:
        inputs = release.warm_up or smallest_inputs(release.interface)
        worker.infer(inputs, deadline_seconds=seconds)
        if (copies := _copies_in_a_batch(release, inputs)) > 1:
            worker.infer(joined([inputs] * copies), deadline_seconds=seconds)
    except (BadTensors, ReleaseRejected) as error:
        _log.info("The model does not take the warm-up: %s", error)


def _copies_in_a_batch(release: ServedRelease, inputs: Sequence[Tensor]) -> int:
    if not can_be_joined(release.interface):
        return 1
    rows_max = release.policy.batch_size_max // max(1, inputs[0].shape[0])
    largest = max(1, *(len(tensor.data) for tensor in inputs))
    return min(rows_max, TENSOR_BYTES_MAX // largest)

"""What this device's onnxruntime can do, asked of a worker that is confined as for a release."""

import hashlib
import os

from mailboat_agent.sealed_memory import verified_memory
from mailboat_agent.serving.launch import AS_CHILDREN, Launch
from mailboat_agent.serving.process import (
    InferenceFailed,
    ModelAltered,
    RuntimeFacts,
    Worker,
    WorkerDied,
    WorkerHung,
    WorkerNotStarted,
    WorkerOptions,
)
from mailboat_agent.serving.requirements import hard_limit_bytes
from mailboat_agent.serving.smallest_model import SMALLEST_MODEL
from mailboat_agent.serving.tensors import Tensor

ASK_SECONDS_MAX = 60  # to load and run sixty-five bytes, on the slowest card
_MEMORY_BYTES = 128 << 20


def runtime_facts(launch: Launch = AS_CHILDREN) -> RuntimeFacts:
    """Version, providers and confinement, after one inference under all of it.

    Raises:
        WorkerNotStarted: no worker, or one that cannot run the smallest of models.
    """
    model_fd = verified_memory([SMALLEST_MODEL], hashlib.sha256(SMALLEST_MODEL).hexdigest())
    try:
        worker = Worker.start(model_fd, launch=launch)
    finally:
        os.close(model_fd)
    options = WorkerOptions(
        providers=("CPUExecutionProvider",),
        threads=1,
        memory_limit_bytes=hard_limit_bytes(_MEMORY_BYTES, 1),
    )
    try:
        worker.load(options, deadline_seconds=ASK_SECONDS_MAX)
        worker.infer([Tensor("x", "FP32", (1,), bytes(4))], deadline_seconds=ASK_SECONDS_MAX)
    except (WorkerDied, WorkerHung, InferenceFailed, ModelAltered) as error:
        worker.kill()
        raise WorkerNotStarted(
            f"A worker came up and could not run the smallest of models: {error.what}",
            next_step="run `mailboat-agent doctor` on the device; its onnxruntime is at fault.",
        ) from error
    worker.close()
    return worker.facts

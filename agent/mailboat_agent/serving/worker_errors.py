"""What can become of a worker process, as those who asked it learn of it."""

from mailboat_schemas.errors import ReleaseRejected, Transient


class WorkerNotStarted(Transient):
    """The process did not come up: memory, processes or the runtime are missing. No verdict."""

    code = "E-WORKER-START"


class WorkerDied(Transient):
    """The process ended by itself. ``reason`` says how; ``last_words`` is the end of its stderr."""

    code = "E-WORKER-DIED"

    def __init__(self, reason: str, last_words: str) -> None:
        super().__init__(
            f"The model's worker process ended: {reason}.",
            next_step="it is started again; if it repeats, look at the release.",
        )
        self.reason = reason
        self.last_words = last_words


class WorkerHung(Transient):
    """The process did not answer in time and was killed."""

    code = "E-WORKER-HUNG"

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"The model did not answer within {seconds:.3g} s; its worker process was killed.",
            next_step="it is started again; if it repeats, look at the release.",
        )


class InferenceFailed(ReleaseRejected):
    """onnxruntime refused to load or run the model, or the release's own code failed; the worker
    lives.

    ``kind`` is one of load_failed, external_data, opset_too_new, provider_failed, run_failed,
    pipeline_failed, out_of_memory, protocol.
    """

    code = "E-INFERENCE"

    def __init__(self, kind: str, message: str) -> None:
        if kind == "pipeline_failed":
            what = f"The release's own code failed: {message}"
            next_step = "run it on the input that it failed on; `mailboat model try` does the same."
        else:
            verb = "run" if kind in ("run_failed", "out_of_memory", "protocol") else "load"
            what = f"onnxruntime did not {verb} the model: {message}"
            next_step = "look at the model with the same version of onnxruntime."
        super().__init__(what, next_step=next_step)
        self.kind = kind
        self.message = message


class ModelAltered(Transient):
    """The bytes changed between being verified and being loaded; nothing of them was loaded."""

    code = "E-MODEL-ALTERED"

    def __init__(self, message: str) -> None:
        super().__init__(
            f"The model is no longer what was verified: {message}.",
            next_step="look who can write to the data directory, and at the disk; it is verified "
            "again before the next attempt.",
        )

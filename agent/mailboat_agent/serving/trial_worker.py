"""A fresh worker for a stage of a trial, and what its failures mean for the release."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from mailboat_agent.serving.gate_failed import (
    EVIDENCE_CHARS_MAX,
    EVIDENCE_ITEMS_MAX,
    GateFailed,
)
from mailboat_agent.serving.interface import check_request, differences
from mailboat_agent.serving.launch import Launch
from mailboat_agent.serving.process import InferenceFailed, Worker, WorkerDied, WorkerHung
from mailboat_agent.serving.provider_choice import Loadable, Loaded, load_on_declared_provider
from mailboat_agent.serving.requirements import RuntimeUnsupported
from mailboat_agent.serving.shared_tensors import JoinedTensor
from mailboat_agent.serving.tensors import BadTensors, Tensor


class TrialWorkers:
    """Makes them, one at a time, for one release."""

    def __init__(
        self, release: Loadable, golden_input: Sequence[Tensor], launch: Launch, *, seconds: float
    ) -> None:
        """``seconds`` from now is the deadline of everything that is done with them."""
        self.release = release
        self.runtime_version = ""
        self.provider = ""
        self.passed_over: tuple[str, ...] = ()
        self.stage = ""
        self._golden_input = golden_input
        self._launch = launch
        self._seconds = seconds
        self._deadline = time.monotonic() + seconds
        self._worker: Worker | None = None

    @contextmanager
    def fresh(self, stage: str, *, with_check: bool = False) -> Iterator[tuple[Loaded, float]]:
        """A loaded worker, and when its start began (monotonic); gone when this ends.

        Raises:
            GateFailed: what happened is the release's doing.
            WorkerNotStarted, ModelAltered: it is not.
        """
        self.stage = stage
        started = time.monotonic()
        try:
            loaded = load_on_declared_provider(
                self.release,
                self._launch,
                remaining_seconds=self.remaining,
                started=self._hold,
                with_check=with_check,
            )
            self._note(loaded)
            self._check_interface(loaded)
            yield loaded, started
            loaded.worker.close()
        except WorkerDied as error:
            raise self._crashed(error) from error
        except WorkerHung as error:
            raise self._out_of_time() from error
        except RuntimeUnsupported as error:
            raise GateFailed("runtime_unsupported", error.what, self._runtime()) from error
        except InferenceFailed as error:
            raise self._refused(error) from error
        finally:
            if self._worker is not None:
                self._worker.kill()

    def infer(
        self, loaded: Loaded, inputs: Sequence[Tensor | JoinedTensor]
    ) -> tuple[float, tuple[Tensor, ...]]:
        """Milliseconds that it took, as a caller would see it, and the outputs."""
        started = time.monotonic()
        inference = loaded.worker.infer(inputs, deadline_seconds=self.remaining())
        return (time.monotonic() - started) * 1000, inference.outputs

    def remaining(self) -> float:
        """
        Raises:
            GateFailed: nothing is left.
        """
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            raise self._out_of_time()
        return remaining

    def peak_memory_bytes(self) -> int:
        return 0 if self._worker is None else self._worker.peak_memory_bytes()

    def _hold(self, worker: Worker) -> None:
        self._worker = worker
        self.runtime_version = worker.facts.version

    def _note(self, loaded: Loaded) -> None:
        self.provider, self.passed_over = loaded.provider, loaded.passed_over

    def _runtime(self) -> dict[str, object]:
        providers = [] if self._worker is None else list(self._worker.facts.providers)
        return {"runtime": self.runtime_version, "providers": providers[:EVIDENCE_ITEMS_MAX]}

    def _check_interface(self, loaded: Loaded) -> None:
        if found := differences(self.release.model_interface, loaded.model):
            raise GateFailed(
                "interface_mismatch",
                f"The model is not what its document declares: {found[0]}.",
                {"differences": list(found[:EVIDENCE_ITEMS_MAX])},
            )
        try:
            check_request(self.release.interface, loaded.callers, self._golden_input, ())
        except BadTensors as error:
            raise GateFailed(
                "interface_mismatch", f"The golden samples do not fit the model: {error.what}"
            ) from error

    def _crashed(self, error: WorkerDied) -> GateFailed:
        return GateFailed(
            "crashed",
            f"The model's process ended during {self.stage}: {error.reason}.",
            {
                "stage": self.stage,
                "ended": error.reason,
                "peak_memory_bytes": self.peak_memory_bytes(),
                "last_words": error.last_words[-EVIDENCE_CHARS_MAX:],
            },
            {"last_words": error.last_words},
        )

    def _refused(self, error: InferenceFailed) -> GateFailed:
        evidence: dict[str, object] = {
            "stage": self.stage,
            "message": error.message[:EVIDENCE_CHARS_MAX],
            "peak_memory_bytes": self.peak_memory_bytes(),
        }
        told = error.message
        match error.kind:
            case "out_of_memory":
                limit = self.release.memory_bytes
                return GateFailed(
                    "memory_exceeded",
                    f"The model needs more than the {limit} bytes it may have.",
                    evidence | {"limit_bytes": limit},
                )
            case "external_data":
                return GateFailed("external_data", f"It is refused: {told}.", evidence)
            case "load_failed":
                return GateFailed("load_failed", f"onnxruntime refuses it: {told}", evidence)
            case "pipeline_failed":
                return GateFailed("pipeline_failed", f"Its own code fails: {told}", evidence)
            case "opset_too_new" | "provider_failed":
                what = f"This device's runtime does not run it: {told}."
                return GateFailed("runtime_unsupported", what, evidence | self._runtime())
            case _:
                what = f"A golden sample fails with an error: {told}"
                return GateFailed("golden_mismatch", what, evidence)

    def _out_of_time(self) -> GateFailed:
        return GateFailed(
            "hung",
            f"The trial was not over after {self._seconds:.3g} s; it stood at {self.stage}.",
            {"stage": self.stage, "deadline_seconds": self._seconds},
        )

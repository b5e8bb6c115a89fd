"""What the protocol tells about models: metadata, configuration, the index, and statistics."""

from collections.abc import Sequence
from typing import Any

from mailboat_agent.serving.not_served import ModelNotServed, ModelSuspended
from mailboat_agent.serving.protocol import model_metadata
from mailboat_agent.serving.runtime import Runtime
from mailboat_agent.serving.served_release import ServedRelease
from mailboat_agent.serving.tensors import OIP_OF_DOCUMENT
from mailboat_agent.serving.window import ServingStats
from mailboat_schemas.documents.interface import Tensor

_NANOSECONDS = 1_000_000  # of a millisecond


def metadata(runtime: Runtime, model: str, version: str | None) -> tuple[ServedRelease, Any]:
    """
    Raises:
        ModelNotServed, ModelSuspended
    """
    release, session = runtime.serving(model, version)
    return release, model_metadata(release, session, in_shadow=runtime.live.in_shadow(model))


def configuration(runtime: Runtime, model: str, version: str | None) -> tuple[ServedRelease, Any]:
    """As Triton's configuration says it, as far as it applies.

    Raises:
        ModelNotServed, ModelSuspended
    """
    release, _ = runtime.serving(model, version)
    content = {
        "name": release.model,
        "platform": "onnxruntime_onnx",
        "backend": "onnxruntime",
        "max_batch_size": 0,  # shapes are whole: the first dimension is in them
        "input": [_port(tensor) for tensor in release.interface.inputs],
        "output": [_port(tensor) for tensor in release.interface.outputs],
    }
    return release, content


def _port(tensor: Tensor) -> dict[str, Any]:
    word = OIP_OF_DOCUMENT[tensor.dtype]
    datatype = "STRING" if word == "BYTES" else word
    return {"name": tensor.name, "data_type": f"TYPE_{datatype}", "dims": list(tensor.shape)}


def index(runtime: Runtime, *, only_ready: bool) -> list[dict[str, str]]:
    """Every model that belongs here, with why it is not ready."""
    entries = []
    for model in runtime.models():
        try:
            release, _ = runtime.serving(model)
            ready = runtime.ready(model)
        except (ModelNotServed, ModelSuspended):  # stopped in between
            continue
        reason = "" if ready else "its worker is being started"
        entries.append(_entry(model, release.version, ready=ready, reason=reason))
    entries += [
        _entry(model, "", ready=False, reason=absence.because)
        for model, absence in runtime.absences().items()
    ]
    return [each for each in entries if each["state"] == "READY"] if only_ready else entries


def _entry(model: str, version: str, *, ready: bool, reason: str) -> dict[str, str]:
    state = "READY" if ready else "UNAVAILABLE"
    return {"name": model, "version": version, "state": state, "reason": reason}


def statistics(runtime: Runtime, models: Sequence[str]) -> dict[str, Any]:
    """Counts since each release began to serve; nothing of a model that does not serve."""
    found = (runtime.snapshot(model) for model in models)
    return {"model_stats": [_statistics(stats) for stats in found if stats is not None]}


def _statistics(stats: ServingStats) -> dict[str, Any]:
    last = stats.last_ok_at
    p50_ms = stats.latency_p50_ms
    return {
        "name": stats.model,
        "version": stats.version,
        "last_inference": 0 if last is None else int(last.timestamp() * 1000),
        "inference_count": stats.requests_ok,
        "execution_count": stats.requests_ok,
        "inference_stats": {
            # The protocol asks for sums; quantiles are kept, so this is an estimate.
            "success": {
                "count": stats.requests_ok,
                "ns": 0 if p50_ms is None else int(p50_ms * _NANOSECONDS) * stats.requests_ok,
            },
            "fail": {"count": stats.requests_error, "ns": 0},
        },
        "parameters": {
            "release": stats.digest,
            "requests_refused": stats.requests_refused,
            "worker_restarts": stats.worker_restarts,
            "latency_p50_ms": p50_ms,
            "latency_p95_ms": stats.latency_p95_ms,
            "peak_memory_bytes": stats.peak_memory_bytes,
        },
    }

"""The demo's series of releases of one model, ``vad``, for two hardware classes.

A and B are good, C is a bad export that the golden samples catch, D has a defect that only live
traffic reaches, E is a copy of B that the demo signs with a key nobody trusts. The models are
silero-vad's where a network is (``wheels``), else made here (``graphs``).
"""

import functools
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import yaml

from mailboat_controller.bundles.npz import npz_bytes
from mailboat_controller.demo import graphs, samples, wheels
from mailboat_controller.demo.samples import Array, live_request
from mailboat_controller.demo.wheels import ModelAltered, fetch_wheels
from mailboat_schemas.documents.release import ReleaseSource

# What the demo's story needs, in one import.
__all__ = [
    "CLASSES",
    "MODEL_NAME",
    "VERSIONS",
    "ModelAltered",
    "Series",
    "fetch_wheels",
    "live_request",
    "made_series",
    "real_series",
    "reference_outputs",
    "write_release_sources",
]

MODEL_NAME = "vad"
KIOSK = "kiosk-x86"
GATEWAY = "gateway-arm"
CLASSES = (KIOSK, GATEWAY)
VERSIONS: Mapping[str, str] = {"A": "6.2.0", "B": "6.2.1", "C": "6.2.2", "D": "6.2.3", "E": "6.2.4"}
# Whose answers a release promises in its golden samples. C and D were meant to equal B.
PROMISES: Mapping[str, str] = {"A": "A", "B": "B", "C": "B", "D": "B", "E": "B"}
STORIES: Mapping[str, str] = {
    "A": "The release every device starts with.",
    "B": "A with a changed last layer, as tuning it leaves; hears quieter voices.",
    "C": "B from the new export pipeline.",
    "D": "B with automatic gain control.",
    "E": "B again, from a build machine nobody knows.",
}

GOLDEN_SAMPLES = 16  # half a second of audio
GOLDEN_SEED = 20_240_613
FINE_TUNE_SEED = 1
TOLERANCE = 1e-3  # kernels differ by some 1e-6 between processors; a wrong model by 1e-2 and more
LATENCY_P95_MS_MAX = 250.0  # measured: 0.2 ms; the rest is for a busy machine with many agents
COLD_START_MS_MAX = 30_000
DEADLINE_SECONDS = 60
# Measured (VmHWM): 88 MB for a Python process with numpy, onnxruntime and the larger model.
PEAK_MEMORY = "256MiB"
SOAK_SECONDS = 2.0
SOAK_REQUESTS_MIN = 5
SOAK_ERROR_RATE_MAX = 0.05
SOAK_BREACH_REQUESTS_MIN = 10
SESSIONS_MAX = 4  # two releases of two classes; up to 40 MB each, and 40 ms to load one again

_FATAL_ONLY = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """``models`` maps release letter, then hardware class, to the bytes of an ONNX file."""

    origin: str  # one sentence for the reader: where these models come from
    repository: str  # "" for models made here
    models: Mapping[str, Mapping[str, bytes]] = field(repr=False)


def real_series(cache: Path) -> Series:
    """silero-vad 6.2.0 from the wheel in the cache, and what was made and broken of it.

    Raises:
        NotFound: a wheel is missing; run `fetch_wheels` first.
        ModelAltered: a wheel does not hold the pinned model.
    """
    pinned = {KIOSK: wheels.GENERAL, GATEWAY: wheels.SMALL}
    return _series(
        f"silero-vad {wheels.GENERAL.version} from the Python package index "
        f"({wheels.LICENCE} licence), and its last layer changed here, by a seed.",
        wheels.HOMEPAGE,
        {name: wheels.read_model(cache, model) for name, model in pinned.items()},
    )


def made_series() -> Series:
    """Small models made on the spot, for a machine without a network. The same on every run."""
    filters = {KIOSK: 32, GATEWAY: 16}
    return _series(
        "Small untrained models made here, because silero-vad could not be downloaded; "
        "their probabilities mean nothing, everything else is real.",
        "",
        {name: graphs.made_model(filters=n, seed=n) for name, n in filters.items()},
    )


def reference_outputs(model_bytes: bytes, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """What the model answers when onnxruntime runs it here, on the CPU with one thread.

    Raises:
        onnxruntime's own exceptions, for a file that does not load or a request that fails.
    """
    session = _session(model_bytes)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def golden_samples(model_bytes: bytes) -> dict[str, Array]:
    """One quiet recording, chunk after chunk with the state carried on, and the model's answers.

    Keys ``in.<tensor>`` and ``out.<tensor>``; the first axis counts the samples.
    """
    state: Array = np.zeros(samples.STATE_SHAPE, np.float32)
    voice = samples.quiet_voice(random.Random(GOLDEN_SEED), GOLDEN_SAMPLES)  # noqa: S311
    rows: list[dict[str, Array]] = []
    for frame in samples.frames(voice):
        inputs = samples.model_inputs(frame, state)
        outputs = reference_outputs(model_bytes, inputs)
        state = outputs["stateN"]
        rows.append(
            {f"in.{name}": array for name, array in inputs.items()}
            | {f"out.{name}": array for name, array in outputs.items()}
        )
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def write_release_sources(
    series: Series, directory: Path, *, soak_seconds: float = SOAK_SECONDS
) -> dict[str, Path]:
    """Write ``<directory>/<letter>/release.yaml`` with its model and golden files beside it.

    Returns the path of each YAML by letter. The same series writes the same bytes.
    """
    golden = {
        letter: {
            name: npz_bytes(golden_samples(model)) for name, model in series.models[letter].items()
        }
        for letter in sorted(set(PROMISES.values()))
    }
    paths = {}
    for letter, models in series.models.items():
        folder = directory / letter
        folder.mkdir(parents=True, exist_ok=True)
        for name, model in models.items():
            (folder / f"{name}.onnx").write_bytes(model)
            (folder / f"{name}.golden.npz").write_bytes(golden[PROMISES[letter]][name])
        source = _release_source(series, letter, soak_seconds)
        ReleaseSource.model_validate(source)
        paths[letter] = folder / "release.yaml"
        text = yaml.safe_dump(source, sort_keys=False, allow_unicode=True)
        paths[letter].write_text(text, encoding="utf-8")
    return paths


def _series(origin: str, repository: str, older: Mapping[str, bytes]) -> Series:
    newer = {
        name: graphs.with_output_layer_tuned(model, FINE_TUNE_SEED) for name, model in older.items()
    }

    def each(change: Callable[[bytes], bytes]) -> Mapping[str, bytes]:
        return {name: change(model) for name, model in newer.items()}

    return Series(
        origin=origin,
        repository=repository,
        models={
            "A": older,
            "B": newer,
            "C": each(graphs.with_gates_misordered),
            "D": each(graphs.with_clipping_defect),
            "E": newer,
        },
    )


def _release_source(series: Series, letter: str, soak_seconds: float) -> dict[str, Any]:
    interface = graphs.read_interface(series.models[letter][KIOSK])
    return {
        "apiVersion": "mailboat/v1",
        "kind": "Release",
        "metadata": {
            "name": MODEL_NAME,
            "version": VERSIONS[letter],
            "description": f"{STORIES[letter]} {series.origin}",
        },
        "spec": {
            "interface": interface.model_dump(mode="json"),
            "variants": [_variant(name, soak_seconds) for name in series.models[letter]],
            "provenance": {"source_repository": series.repository},
        },
    }


def _variant(hardware_class: str, soak_seconds: float) -> dict[str, Any]:
    return {
        "hardware_classes": [hardware_class],
        "files": [
            {"path": "model.onnx", "source": f"{hardware_class}.onnx", "role": "model"},
            {"path": "golden.npz", "source": f"{hardware_class}.golden.npz", "role": "golden"},
        ],
        "runtime": {"name": "onnxruntime", "version": ">=1.18", "threads": 1},
        "peak_memory": PEAK_MEMORY,
        "health": {
            "tolerance": TOLERANCE,
            "cold_start_ms_max": COLD_START_MS_MAX,
            "latency_p95_ms_max": LATENCY_P95_MS_MAX,
            "deadline_seconds": DEADLINE_SECONDS,
            "soak": {
                "seconds": soak_seconds,
                "requests_min": SOAK_REQUESTS_MIN,
                "error_rate_max": SOAK_ERROR_RATE_MAX,
                "breach_requests_min": SOAK_BREACH_REQUESTS_MIN,
            },
        },
    }


@functools.lru_cache(maxsize=SESSIONS_MAX)
def _session(model_bytes: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    # A request that fails raises; onnxruntime would print it too, in the middle of the story.
    options.log_severity_level = _FATAL_ONLY
    return onnxruntime.InferenceSession(model_bytes, options, providers=["CPUExecutionProvider"])

"""The YAML of a bundle that was made: what it declares, written for a person to go on with."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from mailboat_controller.bundles.own_code import NO_CODE, OwnCode
from mailboat_controller.bundles.proposal import Declared
from mailboat_controller.bundles.trying import with_open_gates
from mailboat_controller.durable_file import PUBLIC_MODE, replace_durably
from mailboat_controller.releases.build import DOCUMENT_NAME, Build, build_release
from mailboat_schemas.documents.document import API_VERSION
from mailboat_schemas.documents.interface import Interface
from mailboat_schemas.documents.live_gates import DriftGate
from mailboat_schemas.documents.release import FileRole, ReleaseSource, Runtime
from mailboat_schemas.documents.trial_gates import MetricGate
from mailboat_schemas.documents.yaml_source import load_document
from mailboat_schemas.errors import ConfigurationInvalid, DocumentInvalid

MODEL, GOLDEN, REFERENCE = "model.onnx", "golden.npz", "reference.json"
RELEASE, BUILD = "release.yaml", "build"
REQUESTS_MIN_PROPOSED = 20  # of a soak: silence is not health
OPEN = Declared(
    peak_memory_bytes=8 << 30,
    latency_p95_ms_max=600_000.0,
    cold_start_ms_max=600_000.0,
    deadline_seconds=3_600.0,
)
_HEADER = """\
# Made by `mailboat model build`; yours to edit. Limits have headroom over what was measured where
# it was made: `mailboat model try` says how near each is, a device of the class says it better.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What is known of a release before its limits are."""

    name: str
    version: str
    classes: tuple[str, ...]
    interface: Interface
    model: Interface  # the model's own, where code stands around it
    runtime: Runtime
    tolerances: Mapping[str, float]  # by output
    with_reference: bool
    batches: tuple[int, ...] = ()
    metrics: Mapping[str, MetricGate] = field(default_factory=dict)  # by output
    watches_drift: bool = False
    own_code: OwnCode = NO_CODE


def build_draft(directory: Path, draft: Draft, declared: Declared) -> Build:
    """Write the YAML and build it; the other files are in ``directory`` already."""
    path = directory / RELEASE
    replace_durably(path, draft_yaml(draft, declared), mode=PUBLIC_MODE)
    return build_release(path, directory / BUILD)


@contextmanager
def open_build(directory: Path, draft: Draft) -> Iterator[Build]:
    """The same with open gates, to measure with; gone afterwards."""
    source, folder = directory / f"{RELEASE}.part", directory / f"{BUILD}.part"
    try:
        source.write_bytes(draft_yaml(draft, OPEN))
        build = build_release(source, folder)
        document = with_open_gates(build.document)
        (folder / DOCUMENT_NAME).write_bytes(document.canonical_bytes())
        yield replace(build, document=document)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        source.unlink(missing_ok=True)


def earlier_declarations(directory: Path, classes: tuple[str, ...]) -> Declared | None:
    """What a build before this one declared here, for the same classes."""
    path = directory / RELEASE
    if not path.is_file():
        return None
    try:
        variant = load_document(path, ReleaseSource).spec.variants[0]
    except DocumentInvalid:
        return None  # somebody is at work on it; it is written anew
    if variant.health.latency_p95_ms_max is None or variant.hardware_classes != classes:
        return None
    return Declared(
        peak_memory_bytes=variant.peak_memory,
        latency_p95_ms_max=variant.health.latency_p95_ms_max,
        cold_start_ms_max=variant.health.cold_start_ms_max,
        deadline_seconds=variant.health.deadline_seconds,
        batches={gate.size: gate.latency_p95_ms_max or 0.0 for gate in variant.health.batches},
        throughputs={
            gate.size: gate.throughput_per_second_min or 0.0 for gate in variant.health.batches
        },
    )


def draft_yaml(draft: Draft, declared: Declared) -> bytes:
    """
    Raises:
        ConfigurationInvalid: no release can be that.
    """
    content = {
        "apiVersion": API_VERSION,
        "kind": "Release",
        "metadata": {"name": draft.name, "version": draft.version},
        "spec": {
            "interface": draft.interface.model_dump(mode="json"),
            "variants": [_variant(draft, declared)],
        },
    }
    try:
        ReleaseSource.model_validate(content)
    except ValidationError as error:
        raise unfit(error) from error
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, default_flow_style=None)
    return (_HEADER + text).encode()


_OPTIONS = {
    "name": "--name (small letters, digits and dashes)",
    "version": "--version (1.2.3)",
    "hardware_classes": "--class (small letters, digits and dashes)",
    "peak_memory": "--peak-memory",
    "latency_p95_ms_max": "--latency-p95-ms-max",
    "providers": "--provider",
    "batches": "--batch",
    "batch_size_max": "--batch",
    "pipeline": "--preprocess and --postprocess, --input and --output",
}


def unfit(error: ValidationError) -> ConfigurationInvalid:
    first = error.errors()[0]
    place = [str(part) for part in first["loc"]]
    option = next((_OPTIONS[part] for part in reversed(place) if part in _OPTIONS), "the options")
    what = first["msg"]
    if first["type"] == "string_pattern_mismatch":
        what = f"{first['input']!r} is none"
    return ConfigurationInvalid(
        f"No release can be that: {'.'.join(place)}: {what}.",
        next_step=f"correct {option}.",
    )


def _variant(draft: Draft, declared: Declared) -> dict[str, Any]:
    roles = {MODEL: FileRole.MODEL, GOLDEN: FileRole.GOLDEN}
    if draft.with_reference:
        roles[REFERENCE] = FileRole.REFERENCE
    roles |= {path.name: role for role, path in draft.own_code.files()}
    content: dict[str, Any] = {
        "hardware_classes": list(draft.classes),
        "files": [
            {"path": name, "source": name, "role": role.value} for name, role in roles.items()
        ],
        "runtime": draft.runtime.model_dump(mode="json"),
        "peak_memory": _size(declared.peak_memory_bytes),
        "health": {
            "tolerances": dict(draft.tolerances),
            "cold_start_ms_max": declared.cold_start_ms_max,
            "latency_p95_ms_max": declared.latency_p95_ms_max,
            "deadline_seconds": declared.deadline_seconds,
            "soak": {
                "requests_min": REQUESTS_MIN_PROPOSED,
                "latency_p95_ms_max": declared.latency_p95_ms_max,
            },
        },
    }
    if (pipeline := draft.own_code.pipeline(draft.model)) is not None:
        content["pipeline"] = pipeline.model_dump(mode="json", exclude_none=True)
    if draft.metrics:
        content["health"]["metrics"] = {
            name: gate.model_dump(mode="json", exclude_none=True)
            for name, gate in draft.metrics.items()
        }
    if draft.watches_drift:
        drift = DriftGate()
        content["health"]["soak"]["drift"] = drift.model_dump(mode="json", exclude_none=True)
    if draft.batches:
        content["health"]["batches"] = [
            _batch(size, declared) for size in sorted(set(draft.batches))
        ]
        content["serving"] = {"batch_size_max": max(draft.batches)}
    return content


def _batch(size: int, declared: Declared) -> dict[str, Any]:
    content: dict[str, Any] = {"size": size}
    if size in declared.batches:
        content["latency_p95_ms_max"] = declared.batches[size]
    if size in declared.throughputs:
        content["throughput_per_second_min"] = declared.throughputs[size]
    return content


def _size(size_bytes: int) -> str:
    return f"{size_bytes >> 20}MiB" if size_bytes % (1 << 20) == 0 else f"{size_bytes}"

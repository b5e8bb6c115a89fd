"""Trials of releases made on the spot: a model, its files, its golden samples."""

import hashlib
import io
import os
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np

from mailboat_agent.sealed_memory import verified_memory
from mailboat_agent.serving.bundle import Bundle, open_bundle
from mailboat_agent.serving.served_release import ServedRelease
from mailboat_agent.serving.trial import TrialReport, run_trial
from mailboat_schemas.documents.health import Health
from mailboat_schemas.documents.interface import Interface
from mailboat_schemas.documents.pipeline import Pipeline
from mailboat_schemas.documents.release import File, FileRole, Runtime, Variant
from mailboat_schemas.documents.serving_policy import ServingPolicy

MIB = 1 << 20


def descriptor(content: bytes) -> int:
    return verified_memory([content], hashlib.sha256(content).hexdigest())


def interface(**tensors: tuple[str, list[int]]) -> Interface:
    """``in_x=("float32", [-1, 4]), out_y=...``."""
    sides: dict[str, list[dict[str, Any]]] = {"in": [], "out": []}
    for name, (dtype, shape) in tensors.items():
        side, _, tensor = name.partition("_")
        sides[side].append({"name": tensor, "dtype": dtype, "shape": shape})
    return Interface.model_validate({"inputs": sides["in"], "outputs": sides["out"]})


X_TO_Y = interface(in_x=("float32", [-1, 4]), out_y=("float32", [-1, 4]))


def golden(**arrays: Any) -> bytes:
    """``in_x=..., out_y=...``; the first axis is the sample."""
    buffer = io.BytesIO()
    np.savez(buffer, **{name.replace("_", ".", 1): array for name, array in arrays.items()})
    return buffer.getvalue()


def variant_of(
    model: bytes,
    files: Mapping[str, tuple[FileRole, bytes]],
    *,
    pipeline: Pipeline | None = None,
    serving: ServingPolicy | None = None,
    peak_memory: int = 256 * MIB,
    runtime: Runtime | None = None,
    **health: Any,
) -> Variant:
    contents = {"model.onnx": (FileRole.MODEL, model), **files}
    return Variant(
        hardware_classes=("box",),
        files=tuple(
            File(
                path=path,
                role=role,
                sha256=hashlib.sha256(content).hexdigest(),
                length=len(content),
            )
            for path, (role, content) in contents.items()
        ),
        runtime=runtime or Runtime(),
        peak_memory=peak_memory,
        health=Health(**health),
        serving=serving,
        pipeline=pipeline,
    )


def bundle_of(variant: Variant, files: Mapping[str, tuple[FileRole, bytes]]) -> Bundle:
    return open_bundle(variant, lambda file: descriptor(files[file.path][1]))


def tried(
    model: bytes,
    samples: bytes | None,
    *,
    files: Mapping[str, tuple[FileRole, bytes]] | None = None,
    callers: Interface = X_TO_Y,
    memory_limit_bytes: int = 512 * MIB,
    incumbent: ServedRelease | None = None,
    **variant: Any,
) -> TrialReport:
    """Raises as `run_trial`."""
    declared = variant_of(model, files or {}, **variant)
    with ExitStack() as opened:
        descriptors = [descriptor(model), *([] if samples is None else [descriptor(samples)])]
        for each in descriptors:
            opened.callback(os.close, each)
        return run_trial(
            model_fd=descriptors[0],
            golden_fd=None if samples is None else descriptors[1],
            interface=callers,
            variant=declared,
            memory_limit_bytes=memory_limit_bytes,
            bundle=bundle_of(declared, files or {}),
            serving=incumbent,
        )

"""A small real model as a release that a `Runtime` can serve."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager

from mailboat_agent.sealed_memory import verified_memory
from mailboat_agent.serving.served_release import ServedRelease
from mailboat_schemas.documents.health import Health
from mailboat_schemas.documents.interface import Interface
from mailboat_schemas.documents.release import File, FileRole, Runtime, Variant
from model_fleet import MIB, affine


@contextmanager
def affine_release(model: str = "m", version: str = "1.0.0") -> Iterator[ServedRelease]:
    """y = 2x + 1 over rows of four. Its descriptor is open until the block ends."""
    content = affine(2)
    sha256 = hashlib.sha256(content).hexdigest()
    port = {"dtype": "float32", "shape": [-1, 4]}
    interface = {"inputs": [{"name": "x", **port}], "outputs": [{"name": "y", **port}]}
    file = File(path="m.onnx", role=FileRole.MODEL, sha256=sha256, length=len(content))
    descriptor = verified_memory([content], sha256)
    try:
        yield ServedRelease(
            model=model,
            version=version,
            digest=sha256,
            interface=Interface.model_validate(interface),
            variant=Variant(
                hardware_classes=("box",),
                files=(file,),
                runtime=Runtime(),
                peak_memory=256 * MIB,
                health=Health(),
            ),
            model_fd=descriptor,
            memory_limit_bytes=512 * MIB,
        )
    finally:
        os.close(descriptor)

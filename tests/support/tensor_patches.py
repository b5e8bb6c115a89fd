"""Both ends of a tensor patch in one process, without what confines the decoder."""

import io
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from mailboat_agent.delta.tensor_patch import apply
from mailboat_controller.deltas.tensor_delta import write_tensor_delta


def patch_of(base: bytes, target: bytes) -> bytes:
    patch = io.BytesIO()
    with TemporaryDirectory() as scratch:
        arrays = np.frombuffer(base, np.uint8), np.frombuffer(target, np.uint8)
        write_tensor_delta(*arrays, patch, Path(scratch))
    return patch.getvalue()


def made(base: bytes, patch: bytes, target_length: int) -> bytes:
    base_fd = os.memfd_create("base")
    try:
        os.write(base_fd, base)
        return made_from(base_fd, len(base), patch, target_length)
    finally:
        os.close(base_fd)


def made_from(base_fd: int, base_length: int, patch: bytes, target_length: int) -> bytes:
    out = bytearray()
    source = io.BufferedReader(io.BytesIO(patch))
    apply(base_fd, source, out.extend, base_length=base_length, target_length=target_length)
    return bytes(out)

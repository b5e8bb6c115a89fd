"""The process that decodes one patch, and can do nothing else: ``python -m …delta.decoder``.

It is handed the base and the patch as open descriptors and writes the outcome to its stdout, a
pipe. Before it looks at a byte of either it gives up what it can (`confinement`): the network,
every path, every file it might write to, and memory above what the delta declares. What it writes
is counted and hashed by the agent, so all it could do is to fail.
"""

import argparse
import mmap
import os
import resource
import sys
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path
from typing import Any

from mailboat_agent.delta.exit_status import LENGTH, MALFORMED, MEMORY
from mailboat_agent.delta.output import Write, to_descriptor
from mailboat_agent.serving import confinement
from mailboat_schemas.patch_formats import FULL_PLANES, FULL_ZSTD, TENSOR_DELTA, ZSTD_PATCH

MARGIN_BYTES = 8 << 20  # of the interpreter and its allocator, above what the delta declares

Apply = Callable[[BufferedReader, Write], int]  # to an exit status


def applying(form: str, base_fd: int, *, base_length: int, target_length: int) -> Apply:
    """How to apply a patch of this format. All that may be opened or imported is, on return.

    Raises:
        ValueError: there is no such format.
    """
    if form in (ZSTD_PATCH, FULL_ZSTD):
        from mailboat_agent.delta import zstd_frame  # each format costs only what it needs

        # Mapped while it may still open things; nothing has looked at a byte of it.
        base = mmap.mmap(base_fd, 0, prot=mmap.PROT_READ) if form == ZSTD_PATCH else None
        return lambda patch, write: zstd_frame.decode(
            base, patch, write, target_length=target_length
        )
    if form in (TENSOR_DELTA, FULL_PLANES):
        return _tensors(
            base_fd, base_length if form == TENSOR_DELTA else 0, target_length=target_length
        )
    raise ValueError(form)


def _tensors(base_fd: int, base_length: int, *, target_length: int) -> Apply:
    # One thread: the others would escape what binds the first one.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    from mailboat_agent.delta import tensor_patch
    from mailboat_schemas.tensor_program import LengthDiffers, MalformedPatch

    def apply(patch: BufferedReader, write: Write) -> int:
        lengths: dict[str, Any] = {"base_length": base_length, "target_length": target_length}
        try:
            tensor_patch.apply(base_fd, patch, write, **lengths)
        except LengthDiffers:
            return LENGTH
        except MalformedPatch:
            return MALFORMED
        except MemoryError:
            return MEMORY
        return 0

    return apply


def _confine(*, memory_bytes: int, cpu_seconds: int, parent_uid: int) -> None:
    """Layers that this host does not have are done without, as for models."""
    confinement.at_start(user="nobody", parent_uid=parent_uid)
    confinement.die_with_parent()  # a change of user took it back
    size_bytes, data_bytes = _sizes_of_this_process()
    allowed_bytes = memory_bytes + MARGIN_BYTES
    confinement.before_the_model(opens_files=False, memory_limit_bytes=data_bytes + allowed_bytes)
    # The base is mapped already: address space, and no memory that could not be given back.
    space_bytes = size_bytes + allowed_bytes
    resource.setrlimit(resource.RLIMIT_AS, (space_bytes, space_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))


def _sizes_of_this_process() -> tuple[int, int]:
    """Bytes of address space, and of private writable pages. Source: proc_pid_statm(5)."""
    fields = Path("/proc/self/statm").read_text(encoding="ascii").split()
    page_bytes = os.sysconf("SC_PAGE_SIZE")
    return int(fields[0]) * page_bytes, int(fields[5]) * page_bytes


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--format", required=True)
    for name in (
        *("base-fd", "base-length", "patch-fd", "target-length"),
        *("memory-bytes", "cpu-seconds", "parent-pid", "parent-uid"),
    ):
        parser.add_argument(f"--{name}", type=int, required=True)
    told = parser.parse_args(arguments)
    confinement.die_with_parent()
    if os.getppid() != told.parent_pid:  # it died before the line above
        sys.exit(1)
    apply = applying(
        told.format, told.base_fd, base_length=told.base_length, target_length=told.target_length
    )
    _confine(
        memory_bytes=told.memory_bytes,
        cpu_seconds=told.cpu_seconds,
        parent_uid=told.parent_uid,
    )
    with open(told.patch_fd, "rb") as patch:  # noqa: PTH123 - a descriptor
        sys.exit(apply(patch, to_descriptor(1)))


if __name__ == "__main__":
    main()

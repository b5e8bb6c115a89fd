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
from pathlib import Path

import zstandard

from mailboat_agent.serving import confinement
from mailboat_schemas.deltas import ZSTD_PATCH_WINDOW_BYTES_MAX

READ_BYTES = 256 << 10
MARGIN_BYTES = 8 << 20  # of the interpreter and its allocator, above what the delta declares
# How it tells what was wrong; anything else is a crash.
MALFORMED, WINDOW, LENGTH, MEMORY = 10, 11, 12, 13
_MAGIC = b"\x28\xb5\x2f\xfd"
_HEADER_BYTES_MAX = 18  # of a frame. Source: RFC 8878, section 3.1.1.1
_WINDOW_BYTES_MIN = 1 << 10
_LIMIT_MESSAGES = ("memory", "allocat")  # how zstandard words that malloc refused


def decode(base: mmap.mmap, patch_fd: int, *, target_length: int, output_fd: int) -> int:
    """The exit status. ``target_length`` is the signed one, in bytes."""
    header = os.pread(patch_fd, _HEADER_BYTES_MAX, 0)
    if not header.startswith(_MAGIC):
        return MALFORMED
    try:
        frame = zstandard.get_frame_parameters(header)
    except zstandard.ZstdError:
        return MALFORMED
    if frame.content_size != target_length:
        return LENGTH
    window_bytes_max = window_allowed(len(base), target_length)
    if frame.window_size > window_bytes_max:
        return WINDOW
    try:
        with memoryview(base) as view:
            prefix = zstandard.ZstdCompressionDict(view, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
        base.close()  # it was copied: two of it and the outcome would be too much at once
        decompressor = zstandard.ZstdDecompressor(
            dict_data=prefix, max_window_size=window_bytes_max
        )
        with (
            os.fdopen(patch_fd, "rb", buffering=0) as patch,
            decompressor.stream_reader(patch, read_size=READ_BYTES) as reader,
        ):
            while chunk := reader.read(READ_BYTES):
                _write_all(output_fd, chunk)
    except MemoryError:
        return MEMORY
    except zstandard.ZstdError as error:
        out_of_memory = any(words in str(error).lower() for words in _LIMIT_MESSAGES)
        return MEMORY if out_of_memory else MALFORMED
    return 0


def window_allowed(base_length: int, target_length: int) -> int:
    """Bytes a frame may ask for: the next power of two that spans both files, at most 128 MiB."""
    span = 1 << (max(_WINDOW_BYTES_MIN, base_length + target_length) - 1).bit_length()
    return min(span, ZSTD_PATCH_WINDOW_BYTES_MAX)


def _write_all(descriptor: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


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
    for name in ("base-fd", "patch-fd", "target-length", "memory-bytes", "cpu-seconds"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--parent-pid", type=int, required=True)
    parser.add_argument("--parent-uid", type=int, required=True)
    told = parser.parse_args(arguments)
    confinement.die_with_parent()
    if os.getppid() != told.parent_pid:  # it died before the line above
        sys.exit(1)
    # Mapped while it may still open things; nothing has looked at a byte of it.
    base = mmap.mmap(told.base_fd, 0, prot=mmap.PROT_READ)
    _confine(
        memory_bytes=told.memory_bytes,
        cpu_seconds=told.cpu_seconds,
        parent_uid=told.parent_uid,
    )
    sys.exit(decode(base, told.patch_fd, target_length=told.target_length, output_fd=1))


if __name__ == "__main__":
    main()

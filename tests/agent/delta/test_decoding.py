"""The decoder as a process: what it makes, and every way in which it may fail."""

import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mailboat_agent.delta.decoding import Decoding, decode_into
from mailboat_agent.delta.failure import DeltaFailed, Reason
from mailboat_agent.delta.zstd_frame import window_allowed
from mailboat_controller.deltas.zstd_patch import build_zstd_patch
from patched_fleet import sha256

MIB = 1 << 20
BASE = random.Random(1).randbytes(100_000)
TARGET = BASE[:50_000] + b"something new" + BASE[50_000:]


@contextmanager
def decoding(
    tmp_path: Path, base: bytes, patch: bytes, target_length: int, **changes: object
) -> Iterator[Decoding]:
    (tmp_path / "base").write_bytes(base)
    (tmp_path / "patch").write_bytes(patch)
    base_fd = os.open(tmp_path / "base", os.O_RDONLY)
    patch_fd = os.open(tmp_path / "patch", os.O_RDONLY)
    bounds: dict[str, object] = {
        "base_fd": base_fd,
        "base_length": len(base),
        "patch_fd": patch_fd,
        "target_length": target_length,
        "memory_bytes": 5 * MIB,
    }
    try:
        yield Decoding(**(bounds | changes))  # type: ignore[arg-type]
    finally:
        os.close(base_fd)
        os.close(patch_fd)


def failure(
    tmp_path: Path, patch: bytes = b"", target_length: int = 1, **changes: object
) -> Reason:
    with (
        decoding(tmp_path, BASE, patch, target_length, **changes) as bounds,
        pytest.raises(DeltaFailed) as raised,
    ):
        decode_into(tmp_path / "made", bounds, threading.Event())
    return raised.value.reason


def program(text: str) -> tuple[str, ...]:
    return (sys.executable, "-c", text)


def test_a_patch_makes_the_target_and_its_hash(tmp_path: Path) -> None:
    patch = build_zstd_patch(BASE, TARGET).content
    with decoding(tmp_path, BASE, patch, len(TARGET)) as bounds:
        made = decode_into(tmp_path / "made", bounds, threading.Event())

    assert made.sha256 == sha256(TARGET)
    assert (tmp_path / "made").read_bytes() == TARGET


@pytest.mark.skipif(shutil.which("zstd") is None, reason="needs the zstd command")
def test_it_applies_what_the_command_line_makes(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(BASE)
    (tmp_path / "t").write_bytes(TARGET)
    run = ["zstd", "-q", "-19", "--patch-from=b", "t", "-o", "p"]
    subprocess.run(run, cwd=tmp_path, check=True, timeout=120)

    with decoding(tmp_path, BASE, (tmp_path / "p").read_bytes(), len(TARGET)) as bounds:
        assert decode_into(tmp_path / "made", bounds, threading.Event()).sha256 == sha256(TARGET)


def test_the_declared_memory_is_enough_for_a_large_file_and_not_much_too_much(
    tmp_path: Path,
) -> None:
    base = random.Random(2).randbytes(10 * MIB)
    target = base[: 5 * MIB] + b"new" + base[5 * MIB :]
    patch = build_zstd_patch(base, target)
    with decoding(
        tmp_path, base, patch.content, len(target), memory_bytes=patch.memory_bytes
    ) as bounds:
        assert decode_into(tmp_path / "made", bounds, threading.Event()).sha256 == sha256(target)
    with (
        decoding(
            tmp_path, base, patch.content, len(target), memory_bytes=patch.memory_bytes // 2
        ) as bounds,
        pytest.raises(DeltaFailed) as raised,
    ):
        decode_into(tmp_path / "made", bounds, threading.Event())
    assert raised.value.reason is Reason.DECODER_OVER_MEMORY


def test_a_decoder_that_does_not_end_is_killed_in_time(tmp_path: Path) -> None:
    hangs = program("import time; time.sleep(60)")
    began = time.monotonic()

    assert failure(tmp_path, program=hangs, deadline_seconds_min=0.3) is Reason.DECODER_TOO_SLOW
    assert time.monotonic() - began < 40


def test_a_decoder_that_closes_its_output_and_does_not_end_is_killed_as_well(
    tmp_path: Path,
) -> None:
    lingers = program("import os, time; os.close(1); time.sleep(60)")

    assert failure(tmp_path, program=lingers, deadline_seconds_min=0.5) is Reason.DECODER_TOO_SLOW


def test_one_byte_more_than_was_signed_is_too_many(tmp_path: Path) -> None:
    one_more = program("import os; os.write(1, bytes(11))")

    assert failure(tmp_path, program=one_more, target_length=10) is Reason.OUTPUT_TOO_LONG
    assert (tmp_path / "made").stat().st_size == 0


def test_a_decoder_that_is_content_with_less_is_not_believed(tmp_path: Path) -> None:
    one_less = program("import os; os.write(1, bytes(9))")

    assert failure(tmp_path, program=one_less, target_length=10) is Reason.OUTPUT_TOO_SHORT


def test_a_decoder_that_cannot_be_started_is_a_failure_like_any_other(tmp_path: Path) -> None:
    assert failure(tmp_path, program=("/nowhere",)) is Reason.DECODER_CRASHED


def test_when_nobody_waits_any_more_it_is_ended(tmp_path: Path) -> None:
    abandoned = threading.Event()
    abandoned.set()
    hangs = program("import time; time.sleep(60)")
    began = time.monotonic()
    with decoding(tmp_path, BASE, b"", 1, program=hangs) as bounds, pytest.raises(DeltaFailed):
        decode_into(tmp_path / "made", bounds, abandoned)

    assert time.monotonic() - began < 40


def test_the_window_a_frame_may_ask_for_spans_its_files_and_is_bounded() -> None:
    assert window_allowed(1, 1) == 1024
    assert window_allowed(100_000, 100_000) == 1 << 18
    assert window_allowed(60 * MIB, 120 * MIB) == 128 * MIB

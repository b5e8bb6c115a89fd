"""Our side: the controller's portfolio builds, the agent's confined process applies.

Every candidate is applied and checked, not only the one that ships, which is what the one rule
of selection says for a device that has `MEMORY_BYTES_MAX` for it.
"""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.delta.peers import Outcome, Pair, same_bytes

from mailboat_agent.delta.decoding import Decoding, decode_into
from mailboat_agent.delta.failure import DeltaFailed
from mailboat_controller.deltas.portfolio import Candidate, build, select
from mailboat_schemas.patch_formats import WITHOUT_BASE

OURS = "Mailboat"
MEMORY_BYTES_MAX = 64 << 20  # for a patch; the bar of DESIGN section 13
PROGRAM = (sys.executable, "-P", str(Path(__file__).parent / "measured_decoder.py"))


@dataclass(frozen=True, slots=True)
class Applied:
    """One candidate as a device would apply it. ``above_bare_kib`` leaves out the interpreter."""

    outcome: Outcome
    above_bare_kib: int


def measure(pair: Pair) -> tuple[Applied | None, list[Applied]]:
    """What ships, and every candidate that can be built. None: the file as it is."""
    portfolio = build(pair.base, pair.target, pair.scratch)
    chosen = select(portfolio, memory_bytes_max=MEMORY_BYTES_MAX)
    ships = chosen.delta or chosen.full
    applied = [_applied(pair, candidate) for candidate in portfolio.candidates]
    shipped = [
        each
        for each, candidate in zip(applied, portfolio.candidates, strict=True)
        if candidate is ships
    ]
    return (shipped[0] if shipped else None), applied


def _applied(pair: Pair, candidate: Candidate) -> Applied:
    pair.made.unlink(missing_ok=True)
    problem: str | None = None
    with told(pair.scratch / "memory") as numbers:
        began = time.perf_counter()
        try:
            _decode(pair, candidate)
        except DeltaFailed as error:
            problem = error.what
        seconds = time.perf_counter() - began
    if problem is None and not same_bytes(pair.made, pair.target):
        problem = "what it made is not the target"
    before, peak = numbers
    return Applied(
        Outcome(
            tool=OURS,
            detail=candidate.format,
            patch_bytes=candidate.size_bytes if problem is None else None,
            build_seconds=candidate.build_seconds,
            apply_seconds=seconds,
            apply_peak_kib=peak,
            problem=problem,
        ),
        peak - before,
    )


def _decode(pair: Pair, candidate: Candidate) -> None:
    from_base = candidate.format not in WITHOUT_BASE
    base_fd = os.open(pair.base, os.O_RDONLY) if from_base else None
    patch_fd = os.open(candidate.patch, os.O_RDONLY)
    try:
        decoding = Decoding(
            base_fd=base_fd,
            base_length=pair.base.stat().st_size if from_base else 0,
            patch_fd=patch_fd,
            target_length=pair.target.stat().st_size,
            memory_bytes=candidate.memory_bytes,
            format=candidate.format,
            program=(*PROGRAM, str(pair.scratch / "memory")),
        )
        decode_into(pair.made, decoding, threading.Event())
    finally:
        os.close(patch_fd)
        if base_fd is not None:
            os.close(base_fd)


@contextmanager
def told(pipe: Path) -> Iterator[list[int]]:
    """The two numbers that the decoder tells, in the list once the block has ended."""
    pipe.unlink(missing_ok=True)
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)  # first, so that nobody waits to write
    numbers = [0, 0]
    try:
        yield numbers
        said = os.read(reading, 64).split()
        if len(said) == 2:
            numbers[:] = map(int, said)
    finally:
        os.close(reading)

"""A story traced: run once under strace in a copy of its directory, read back as a recording."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.faults.power_directory import differences
from tests.faults.power_model import record
from tests.faults.power_operations import Recording
from tests.faults.power_states import final_state
from tests.faults.traced_log import read_calls
from tests.faults.traced_run import traced


class ModelWrong(Exception):
    """The model's own end differs from what the program really left behind."""


@dataclass(frozen=True, slots=True)
class Trace:
    recording: Recording
    status: int  # of the process that acted
    told_before: bytes


def trace(
    before: Path, directory: Path, told: Path, act: Callable[[Path], object], log: Path
) -> Trace:
    """Run ``act`` on ``directory``, which is made a copy of ``before``.

    Raises:
        ModelWrong: replaying every operation does not give the directory that is there now.
        Unmodelled, NotTraced
    """
    shutil.copytree(before, directory)
    told_before = told.read_bytes() if told.exists() else b""
    try:
        status = traced(lambda: act(directory), log)
        with log.open() as lines:
            recording = record(before, directory, told, read_calls(lines))
    finally:
        log.unlink(missing_ok=True)
    differs = differences(final_state(recording), directory)
    if differs:
        raise ModelWrong("; ".join(differs[:10]))
    return Trace(recording, status, told_before)

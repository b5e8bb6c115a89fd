"""What holds for every test."""

import gc
import os

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("mailboat", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("mailboat")


def pytest_collection_finish() -> None:
    """All tests and what they import stay to the end: no collection of garbage need look there."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """``-n auto``: half as many again as there are cores. Tests wait: for disks, ports, deadlines.

    Each more costs its own reading of the tests (five seconds), so it is not twice as many.
    """
    cores = len(os.sched_getaffinity(0))
    return cores + (cores + 1) // 2

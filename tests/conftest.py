"""What holds for every test."""

import gc
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from _pytest.assertion import rewrite
from hypothesis import HealthCheck, settings

from mailboat_schemas.key_services import KEY_SERVICES, import_signers_without

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("mailboat", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("mailboat")
# What names no number of examples of its own; `make test-all` takes as many as Hypothesis does.
settings.register_profile("quick", settings.get_profile("mailboat"), max_examples=30)

LONG_SECONDS = 1000  # who may take so long is begun first
GARBAGE_OBJECTS = 20_000  # between two collections; with Python's 700 they take a seventh of all
MEMORY = Path("/dev/shm")  # noqa: S108 - pytest makes a directory in it that is ours alone
MEMORY_BYTES_MIN = 6 << 30  # free: what slow tests keep at one time, several times over


def _tests_write_to_memory() -> None:
    """Thousands of tests sync their files, and what they look at does not hang on the disk.

    Killed processes lose nothing that was written to memory either; what a power cut leaves is
    computed, in `tests/faults`. A place that somebody has named in the environment is taken.
    """
    try:
        roomy = shutil.disk_usage(MEMORY).free >= MEMORY_BYTES_MIN and os.access(MEMORY, os.W_OK)
    except OSError:
        return
    if roomy:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


_tests_write_to_memory()
if threading.current_thread() is threading.main_thread():
    # What a shell starts in the background hears no Ctrl-C, nor do its children; tests press it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
gc.disable()  # until all tests are read
import_signers_without(KEY_SERVICES)  # one of them, boto3, comes with what stands in for S3

QUICK = "not slow"  # of `make test`
_SLOW_ALTOGETHER = re.compile(r"^pytestmark = (?:\[\s*)?pytest\.mark\.slow\b", re.MULTILINE)


def pytest_configure(config: pytest.Config) -> None:
    """Before asserts run they are rewritten; on a new checkout that takes twice as long as all
    other reading of the tests. Each worker does a share for all of them, and what is not there yet
    when it is read, whoever reads it does himself."""
    if config.getoption("markexpr") == QUICK:
        settings.load_profile("quick")
    worker = getattr(config, "workerinput", None)
    whole = Path(__file__).parent
    asked = [Path(each).absolute() for each in config.args]
    if worker is None or sys.dont_write_bytecode or whole not in asked:
        return
    state = config.stash[rewrite.assertstate_key]
    number = int(worker["workerid"].removeprefix("gw"))
    for path in sorted(whole.rglob("test_*.py"))[number :: worker["workercount"]]:
        cached = rewrite.get_cache_dir(path) / f"{path.stem}{rewrite.PYC_TAIL}"
        if not cached.exists():
            cached.parent.mkdir(exist_ok=True)
            source_hash, code = rewrite._rewrite_test(path, config)
            rewrite._write_pyc(state, code, source_hash, cached)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """The quick suite does not even read files of which it would run nothing: each worker would,
    and some of them import what nothing else needs."""
    if config.getoption("markexpr") != QUICK or collection_path.suffix != ".py":
        return None
    return True if _SLOW_ALTOGETHER.search(collection_path.read_text()) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Stories of minutes come first: begun last, one would run while everybody else has ended."""
    items.sort(key=lambda item: not _is_long(item))


def _is_long(item: pytest.Item) -> bool:
    allowed = item.get_closest_marker("timeout")
    return allowed is not None and allowed.args[:1] >= (LONG_SECONDS,)


def pytest_collection_finish() -> None:
    """All tests and what they import stay to the end: no collection of garbage need look there,
    not even once. What is garbage among it by now is little, and going through it all is not."""
    gc.set_threshold(GARBAGE_OBJECTS)
    gc.enable()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """``-n auto``: half as many again as there are cores. Tests wait: for disks, ports, deadlines.

    Each more costs its own reading of the tests (five seconds), so it is not twice as many.
    """
    cores = len(os.sched_getaffinity(0))
    return cores + (cores + 1) // 2


@pytest.fixture
def disk_path() -> Iterator[Path]:
    """As ``tmp_path``, on a disk wherever the rest is: for who can tell the difference."""
    with tempfile.TemporaryDirectory(prefix="mailboat-disk-") as directory:
        yield Path(directory)

"""Models that take too much memory, crash, hang and leak: none harms the agent or what serves."""

import gc
import os
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import cycle, islice
from typing import Any

import psutil
import pytest

from agent_process import until
from hostile_models import (
    PEAK_BYTES,
    Hostile,
    hostile_models,
    identity,
    with_a_huge_shape,
    without_an_operator,
)
from mailboat_agent.serving.runtime import Runtime
from mailboat_agent.serving.served_release import ServedRelease
from mailboat_agent.serving.tensors import Tensor
from mailboat_agent.serving.trial import GateFailed
from trial_bench import MIB, X_TO_Y, descriptor, golden, tried, variant_of

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
ALL = hostile_models()
TRIALS_OF_A_KIND = 25  # a hundred in all


def reason_of(hostile: Hostile) -> str:
    with pytest.raises(GateFailed) as failed:
        tried(
            hostile.model,
            hostile.samples(),
            files=hostile.files,
            pipeline=hostile.pipeline,
            peak_memory=PEAK_BYTES,
            deadline_seconds=hostile.deadline_seconds,
        )
    return failed.value.reason


class Serving:
    """A release that answers all the while, and is asked all the while."""

    def __init__(self) -> None:
        self.runtime = Runtime(clock=lambda: NOON)
        model = identity()
        model_fd = descriptor(model)
        self.runtime.serve(
            ServedRelease(
                model="good",
                version="1.0.0",
                digest="1" * 64,
                interface=X_TO_Y,
                variant=variant_of(model, {}),
                model_fd=model_fd,
                memory_limit_bytes=256 * MIB,
            )
        )
        os.close(model_fd)
        self.pid = self.runtime.worker_pid("good")
        self.answered, self.failed = 0, 0
        self._over = threading.Event()
        self._caller = threading.Thread(target=self._ask, name="caller")
        self._caller.start()

    def _ask(self) -> None:
        tensor = Tensor("x", "FP32", (1, 4), bytes(16))
        while not self._over.wait(0.02):
            try:
                self.runtime.submit(
                    "good",
                    None,
                    [tensor],
                    [],
                    deadline=time.monotonic() + 60,
                    encode=lambda _, inference: inference.outputs[0].values(),
                ).result(60)
                self.answered += 1
            except Exception:  # noqa: BLE001 - whatever it is, it is counted
                self.failed += 1

    def close(self) -> None:
        self._over.set()
        self._caller.join()
        self.runtime.close()


@pytest.fixture
def serving() -> Iterator[Serving]:
    serving = Serving()
    yield serving
    serving.close()


def test_there_are_ten_of_each_kind_and_no_two_alike() -> None:
    for models in ALL.values():
        alike = {(each.model, tuple(sorted(each.files.items()))) for each in models}
        assert len(alike) == len(models) >= 10


@pytest.mark.parametrize("kind", ["memory", "crash", "leak"])
def test_one_of_each_kind_is_refused_with_its_reason(kind: str) -> None:
    hostile = ALL[kind][0]

    assert reason_of(hostile) in hostile.reasons
    assert not psutil.Process().children()


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(ALL))
def test_25_trials_of_a_kind_leave_agent_and_serving_release_untouched(
    serving: Serving, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    own = psutil.Process()
    gc.collect()  # a failure holds the frames that hold its files
    descriptors, threads = own.num_fds(), own.num_threads()
    tried_ones = list(islice(cycle(ALL[kind]), TRIALS_OF_A_KIND))
    reasons = [(hostile, reason_of(hostile)) for hostile in tried_ones]

    right = sum(reason in hostile.reasons for hostile, reason in reasons)
    with capsys.disabled():
        sys.stdout.write(
            f"\n{kind}: {right} of {len(reasons)} trials of {len(ALL[kind])} models refused with "
            f"their reason ({', '.join(sorted({reason for _, reason in reasons}))}); what serves "
            f"answered {serving.answered} requests meanwhile, {serving.failed} failed\n"
        )

    assert [(h.name, reason) for h, reason in reasons if reason not in h.reasons] == []
    assert serving.failed == 0
    assert serving.answered > len(reasons)
    assert serving.runtime.worker_pid("good") == serving.pid  # never started again
    until(lambda: [child.pid for child in own.children()] == [serving.pid])
    gc.collect()
    # What reads a dead worker's last words ends by itself; what an earlier test left may have too.
    until(lambda: own.num_fds() <= descriptors and own.num_threads() <= threads)


BAD_FILES: dict[str, bytes] = {
    "empty": b"",
    "zeros": bytes(1000),
    "text": b"not a model at all",
    "truncated": identity()[:-7],
    "half": identity()[: len(identity()) // 2],
    "a field without an end": identity() + b"\x3a\xff\xff\xff\xff\x0f",
    "a group": identity() + b"\x0b",
    "nested for ever": b"\x3a\x7f" * 200,
    "ones": b"\xff" * 4096,
    "a missing operator": without_an_operator(),
    "a huge shape": with_a_huge_shape(),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(BAD_FILES))
def test_a_damaged_file_is_refused_at_loading(name: str) -> None:
    x = [[[0.0, 1, 2, 3]]]
    with pytest.raises(GateFailed) as failed:
        tried(BAD_FILES[name], golden(in_x=_fp32(x), out_y=_fp32(x)))

    assert failed.value.reason in {"load_failed", "interface_mismatch"}


def _fp32(values: Any) -> Any:
    import numpy as np

    return np.array(values, np.float32)

"""Releases come, go and are withdrawn, workers are killed, and memory is short: all at once.

Who asks is answered with what belongs to the own request or told to come again, and nobody waits
for ever. What is left in the end is nothing.
"""

import os
import random
import signal
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from mailboat_agent.serving.residency import Residency
from mailboat_agent.serving.runtime import Runtime
from mailboat_agent.serving.tensors import Tensor
from mailboat_schemas.documents.serving_policy import ServingPolicy, Workload
from mailboat_schemas.errors import MailboatError

SECONDS = 8.0
MIB = 1 << 20
MODELS, FACTORS = ("m", "n"), (2, 3, 4)  # the version says the factor
ROWS = (1, 1, 3, 700, 3000, 9000)  # in the message, joined, and in shared memory
ANSWER_SECONDS_MAX = 60.0


@dataclass
class Seen:
    stop: threading.Event = field(default_factory=threading.Event)
    answers: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


def encoded(release: Any, inference: Any) -> tuple[str, Any, bytes]:
    (y,) = inference.outputs
    return release.version, y.shape, bytes(y.data)


def ask(runtime: Runtime, rng: random.Random, seen: Seen) -> None:
    while not seen.stop.is_set():
        rows, value = rng.choice(ROWS), float(rng.randrange(1, 1000))
        x = np.full((rows, 4), value, np.float32)
        try:
            version, shape, data = runtime.submit(
                rng.choice(MODELS),
                None,
                [Tensor("x", "FP32", (rows, 4), x.tobytes())],
                [],
                deadline=time.monotonic() + 60,
                workload=rng.choice(list(Workload)),
                encode=encoded,
            ).result(ANSWER_SECONDS_MAX)
        except MailboatError as error:
            seen.answers[type(error).__name__] += 1
            time.sleep(0.01)
        except BaseException as error:  # noqa: BLE001 - any other end is what the test is about
            seen.wrong.append(repr(error))
        else:
            seen.answers["ok"] += 1
            y = np.full((rows, 4), value * float(version[0]) + 1, np.float32)
            if (shape, data) != ((rows, 4), y.tobytes()):
                seen.wrong.append(f"{rows} rows of {value} by {version}: {shape}")


def disturb(runtime: Runtime, releases: dict[tuple[str, int], Any], rng: random.Random) -> None:
    release = releases[rng.choice(MODELS), rng.choice(FACTORS)]
    match rng.choices(("serve", "kill", "bar", "stop", "rest"), (12, 4, 2, 1, 1))[0]:
        case "serve":
            with suppress(MailboatError):
                runtime.serve(release)
        case "kill" if children := psutil.Process().children():
            os.kill(rng.choice(children).pid, signal.SIGKILL)
        case "bar":
            runtime.bar(release.model, frozenset({release.digest}))
            time.sleep(0.05)
            runtime.bar(release.model, frozenset())
        case "stop":
            runtime.stop(release.model)
        case _:
            time.sleep(0.3)


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("budget_mib", [300, 800])  # for one worker of 256, and for three
def test_whatever_happens_at_once_nobody_gets_anothers_answer(
    budget_mib: int, bench: Any, models: Any
) -> None:
    rng, seen = random.Random(budget_mib), Seen()
    residency = Residency(budget_mib * MIB)
    runtime = Runtime(
        clock=lambda: datetime(2026, 3, 1, tzinfo=UTC), residency=residency, spare_seconds=1
    )
    policy = ServingPolicy(batch_size_max=64, batch_delay_ms_max=2)
    releases = {}
    for factor in FACTORS:
        made = bench.release(models.affine(factor), version=f"{factor}.0.0")
        variant = made.variant.model_copy(update={"serving": policy})
        for name in MODELS:
            releases[name, factor] = replace(made, model=name, variant=variant)
    before, children = descriptors(), psutil.Process().children()
    clients = [
        threading.Thread(target=ask, args=(runtime, random.Random(n), seen)) for n in range(6)
    ]
    for client in clients:
        client.start()

    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        disturb(runtime, releases, rng)
    assert runtime.stuck(time.monotonic()) == ()
    seen.stop.set()
    for client in clients:
        client.join(2 * ANSWER_SECONDS_MAX)
    runtime.close()

    assert seen.wrong == []
    assert seen.answers["ok"] > 0, seen.answers
    give_up = time.monotonic() + 60
    while (
        psutil.Process().children() != children
        or residency.held_bytes
        or descriptors() > before + 5  # what is opened once; a leak would be dozens
    ):
        assert time.monotonic() < give_up, (residency.held_bytes, descriptors(), before)
        time.sleep(0.05)

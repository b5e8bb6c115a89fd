"""A candidate beside a real worker that serves: what is mirrored, dropped, paused and given up."""

import random
import struct
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from mailboat_agent.serving.live_view import DRIFT_SAMPLES_PER_SECOND_MAX, LiveView
from mailboat_agent.serving.observing import keep
from mailboat_agent.serving.process import Inference
from mailboat_agent.serving.residency import Residency
from mailboat_agent.serving.runtime import Runtime
from mailboat_agent.serving.served_release import ServedRelease
from mailboat_agent.serving.shadow import (
    MEMORY_AVAILABLE_MIN_BYTES,
    MIRRORED_REQUESTS_MAX,
    Mirror,
)
from mailboat_agent.serving.shadowing import shadow_candidate
from mailboat_agent.serving.tensors import Tensor
from mailboat_agent.serving.trial import GateFailed
from mailboat_agent.update.soak import Judgement, Verdict
from mailboat_schemas.documents.live_gates import Shadow
from mailboat_schemas.documents.reference import Reference
from mailboat_schemas.live_figures import SHIFTS_MAX

X = Tensor("x", "FP32", (1, 4), struct.pack("<4f", 0, 1, 2, 3))
MUCH = 1 << 40
SHADOW = Shadow(share=1, requests_min=5, seconds_max=20)


@pytest.fixture
def ask(runtime: Runtime) -> Callable[[], Inference]:
    def ask() -> Inference:
        future: Future[Inference] = runtime.submit(
            "m", None, [X], [], deadline=time.monotonic() + 60, encode=lambda _, found: found
        )
        return future.result(60)

    return ask


def shadowed(
    runtime: Runtime,
    candidate: ServedRelease,
    ask: Callable[[], Inference],
    shadow: Shadow = SHADOW,
    available: Callable[[], int | None] = lambda: MUCH,
) -> Judgement:
    """The verdict, with live requests until there is one."""
    over = threading.Event()

    def load() -> None:
        while not over.wait(0.002):
            ask()

    callers = threading.Thread(target=load)
    callers.start()
    try:
        return shadow_candidate(
            runtime, candidate, shadow, stop=threading.Event(), available_bytes=available
        )
    finally:
        over.set()
        callers.join()


@pytest.mark.slow
def test_both_latencies_are_of_the_same_requests(
    runtime: Runtime, bench: Any, models: Any, ask: Callable[[], Inference]
) -> None:
    runtime.serve(bench.release(models.affine()))
    slow = bench.release(models.looping(30_000), version="1.1.0")
    shadow = SHADOW.model_copy(update={"agreement_min": 0, "latency_ratio_max": 1.5})

    with pytest.raises(GateFailed) as failed:
        shadowed(runtime, slow, ask, shadow)

    assert failed.value.reason == "shadow_latency"
    evidence = failed.value.evidence
    assert evidence["candidate_p95_ms"] > 1.5 * evidence["live_p95_ms"]


@pytest.mark.slow
def test_a_candidate_that_cannot_be_loaded_is_refused(
    runtime: Runtime, bench: Any, models: Any, ask: Callable[[], Inference]
) -> None:
    runtime.serve(bench.release(models.affine()))
    broken = bench.release(b"no model", version="1.1.0")

    with pytest.raises(GateFailed) as failed:
        shadowed(runtime, broken, ask)

    assert (failed.value.reason, failed.value.evidence["stage"]) == ("load_failed", "shadow")
    assert ask().outputs


def test_without_memory_beside_nothing_is_loaded_and_that_is_said(
    bench: Any, models: Any, runtime: Runtime
) -> None:
    candidate = bench.release(models.affine())
    needed = candidate.memory_bytes + MEMORY_AVAILABLE_MIN_BYTES

    judgement = shadow_candidate(
        runtime, candidate, SHADOW, stop=threading.Event(), available_bytes=lambda: needed - 1
    )

    assert judgement.verdict is Verdict.PASSED
    assert judgement.because == (
        "not shadowed: beside what serves it needs 320 MiB, 320 MiB are free; 0 of 5 live requests "
        "were compared; its document lets it pass"
    )
    assert runtime.models() == ()


@pytest.mark.slow
def test_a_budget_without_room_is_said_too(bench: Any, models: Any) -> None:
    release = bench.release(models.affine())
    runtime = Runtime(
        clock=lambda: pytest.fail("nobody asks"), residency=Residency(release.memory_bytes - 1)
    )

    judgement = shadow_candidate(
        runtime, release, SHADOW, stop=threading.Event(), available_bytes=lambda: MUCH
    )

    assert judgement.evidence["not_shadowed"]
    runtime.close()


@pytest.mark.slow
def test_memory_that_becomes_short_ends_the_shadow(
    runtime: Runtime, bench: Any, models: Any, ask: Callable[[], Inference]
) -> None:
    runtime.serve(bench.release(models.affine()))
    free = iter([MUCH, MUCH])

    judgement = shadowed(
        runtime,
        bench.release(models.affine(), version="1.1.0"),
        ask,
        SHADOW.model_copy(update={"requests_min": 10**6}),
        lambda: next(free, 1),
    )

    assert judgement.evidence["not_shadowed"] == "the machine's memory is short"


@pytest.mark.slow
def test_it_ends_when_told_to_and_leaves_no_process(
    runtime: Runtime, bench: Any, models: Any
) -> None:
    runtime.serve(bench.release(models.affine()))
    stop = threading.Event()
    stop.set()

    judgement = shadow_candidate(
        runtime, bench.release(models.affine(), version="1.1.0"), SHADOW, stop=stop
    )

    assert judgement.verdict is Verdict.WAIT
    assert [thread.name for thread in threading.enumerate()].count("serving-m") == 1


@pytest.mark.slow
def test_a_candidate_that_does_not_follow_costs_live_answers_nothing(
    runtime: Runtime, bench: Any, models: Any
) -> None:
    """The queue is bounded: what does not fit is dropped and counted, and nobody waits."""
    candidate = runtime.candidate(bench.release(models.looping(200_000), version="1.1.0"))
    mirror = Mirror(
        candidate,
        SHADOW,
        live_p95_ms=1,
        available_bytes=lambda: MUCH,
        rng=random.Random(1),
    )

    began = time.monotonic()
    for _ in range(100):
        mirror.saw([X], [Tensor("y", "FP32", (1, 4), X.data)], 1, now=1)
    seconds = time.monotonic() - began

    counts = mirror.stats().counts
    assert seconds < 10  # the candidate would take a minute
    assert counts.mirrored + counts.dropped == 100
    assert counts.mirrored <= MIRRORED_REQUESTS_MAX + 1  # one may be with the candidate
    mirror.close()
    candidate.cut_off()
    assert candidate.join(60)


@pytest.mark.slow
def test_what_waits_when_a_pause_begins_is_not_asked_any_more(
    runtime: Runtime, bench: Any, models: Any
) -> None:
    """The candidate is why live answers are slow: sixteen more requests would keep them so."""
    candidate = runtime.candidate(bench.release(models.looping(20_000), version="1.1.0"))
    mirror = Mirror(
        candidate, SHADOW, live_p95_ms=1, available_bytes=lambda: MUCH, rng=random.Random(1)
    )
    now = time.monotonic()
    for _ in range(MIRRORED_REQUESTS_MAX):
        mirror.saw([X], [Tensor("y", "FP32", (1, 4), X.data)], 1, now)
    for _ in range(100):
        mirror.saw([X], [Tensor("y", "FP32", (1, 4), X.data)], 1000, now)

    until(lambda: mirror.stats().counts.dropped >= MIRRORED_REQUESTS_MAX - 4)

    counts = mirror.stats().counts
    assert counts.pauses == 1
    assert counts.compared <= 4  # those that were with the candidate before
    mirror.close()
    candidate.cut_off()
    assert candidate.join(60)


@pytest.mark.slow
def test_a_candidate_that_gave_way_to_another_model_is_not_loaded_again(
    bench: Any, models: Any
) -> None:
    """Its own reload would have a model that serves unloaded; and it did not disagree either."""
    a = bench.release(models.affine())
    runtime = Runtime(
        clock=lambda: datetime.now(UTC),
        residency=Residency(2 * a.memory_bytes, available_bytes=lambda: MUCH),
        pinned=frozenset({"m"}),
    )
    runtime.serve(a)
    serving = runtime.worker_pid("m")
    candidate = runtime.candidate(replace(bench.release(models.affine()), model="n"))
    mirror = Mirror(
        candidate, SHADOW, live_p95_ms=1, available_bytes=lambda: MUCH, rng=random.Random(1)
    )
    try:
        runtime.serve(replace(bench.release(models.affine()), model="o"))
        until(lambda: not candidate.worker_pid)
        mirror.saw([X], [Tensor("y", "FP32", (1, 4), X.data)], 1, time.monotonic())
        until(lambda: mirror.stats().counts.dropped == 1)

        stats = mirror.stats()
        assert stats.impossible == "another model needed its memory"
        assert (stats.counts.compared, stats.worker_deaths) == (0, 0)
        assert runtime.worker_pid("m") == serving
        assert runtime.worker_pid("o")
    finally:
        mirror.close()
        candidate.retire()
        runtime.close()
    assert candidate.join(60)


@pytest.mark.slow
def test_a_shadow_that_ends_late_leaves_the_next_one_alone(
    runtime: Runtime, bench: Any, models: Any
) -> None:
    candidate = runtime.candidate(bench.release(models.affine(), version="1.1.0"))
    first, second = (
        Mirror(candidate, SHADOW, live_p95_ms=1, available_bytes=lambda: MUCH, rng=random.Random(1))
        for _ in range(2)
    )
    live = runtime.live
    live.begin_mirror(first)
    first.saw([X], [Tensor("y", "FP32", (1, 4), X.data)], 1, time.monotonic())
    until(lambda: first.stats().counts.compared == 1)
    live.begin_mirror(second)
    live.end_mirror(first)
    assert live.in_shadow("m") == "1.1.0"
    second.saw([X], [Tensor("y", "FP32", (1, 4), X.data)], 1, time.monotonic())
    until(lambda: second.stats().counts.compared == 1)

    (figures,) = live.drain("m").values()

    # Neither's figures are lost, nor what the application said of the same release.
    assert figures.shadow is not None
    assert figures.shadow.mirrored == 2
    live.end_mirror(second)
    assert live.in_shadow("m") is None
    assert live.drain("m") == {}
    candidate.retire()
    assert candidate.join(60)


def until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.01)


# --- what else looks at live traffic -------------------------------------------------------------


def reference() -> Reference:
    tensor = {"name": "x", "side": "input", "elements": 4, "edges": [1], "counts": [2, 2]}
    return Reference.model_validate({"samples": 1000, "tensors": [tensor]})


def settle(live: LiveView, digest: str, requests: int) -> None:
    until(lambda: any(each.requests >= requests for each in live.shifts("m", digest) or ()))


def test_live_traffic_is_sampled_and_only_that_of_the_release_with_the_reference(
    bench: Any, models: Any
) -> None:
    live, release = LiveView(), bench.release(models.affine())
    live.compare_with("m", release.digest, reference())
    for _ in range(50):
        live(release, [X], [], 1.0)
    other = bench.release(models.affine(), version="1.1.0")
    live(other, [X], [], 1.0)

    settle(live, release.digest, 1)

    shifts = live.shifts("m", release.digest)
    assert shifts
    assert shifts[0].requests <= 1 + DRIFT_SAMPLES_PER_SECOND_MAX
    assert live.shifts("m", other.digest) is None
    live.close()


def test_windows_are_drained_once_and_the_total_stays(bench: Any, models: Any) -> None:
    live, release = LiveView(), bench.release(models.affine())
    live.compare_with("m", release.digest, reference())
    live(release, [X], [], 1.0)
    settle(live, release.digest, 1)

    (figures,) = live.drain("m").values()

    assert (figures.version, figures.shifts[0].requests) == ("1.0.0", 1)
    assert live.drain("m") == {}
    assert live.shifts("m", release.digest)[0].requests == 1
    live.close()


def test_a_window_tells_of_so_many_tensors_and_a_gate_sees_them_all(
    bench: Any, models: Any
) -> None:
    """Thirty-two inputs that have shifted, which nobody bounds, hide no output that has."""
    live, release = LiveView(), bench.release(models.affine())
    counted = {"elements": 1000, "edges": [1]}
    names = [f"x{n}" for n in range(SHIFTS_MAX)]
    tensors = [
        {"name": name, "side": "input", "counts": [1000, 0], **counted} for name in names
    ] + [{"name": "y", "side": "output", "counts": [500, 500], **counted}]
    of_all = Reference.model_validate({"samples": 1000, "tensors": tensors})
    live.compare_with("m", release.digest, of_all)
    five = struct.pack("<4f", 5, 5, 5, 5)
    live(
        release,
        [Tensor(name, "FP32", (1, 4), five) for name in names],
        [Tensor("y", "FP32", (1, 4), five)],
        1.0,
    )
    settle(live, release.digest, 1)

    (figures,) = live.drain("m").values()

    assert len(figures.shifts) == SHIFTS_MAX
    assert "y" not in {shift.tensor for shift in figures.shifts}
    assert "y" in {shift.tensor for shift in live.shifts("m", release.digest) or ()}
    live.close()


def test_what_goes_wrong_beside_an_answer_is_logged_and_no_more(
    bench: Any, models: Any, caplog: pytest.LogCaptureFixture
) -> None:
    live, release = LiveView(), bench.release(models.affine())
    live.compare_with("m", release.digest, reference())

    live(release, [None], [], 1.0)  # type: ignore[list-item]

    assert "could not be looked at" in caplog.text
    live.close()


def test_what_is_kept_of_an_answer_has_bytes_of_its_own() -> None:
    buffer = bytearray(b"\x00\x00\x80\x3f")
    kept = keep([Tensor("x", "FP32", (1,), memoryview(buffer))], [], 1.0)

    buffer[:] = b"\xff" * 4

    assert kept.inputs[0].values() == (1.0,)


def test_a_release_that_serves_again_is_sampled_anew(bench: Any, models: Any) -> None:
    live, release = LiveView(), bench.release(models.affine())
    live.compare_with("m", release.digest, reference(), stay=1)
    live(release, [X], [], 1.0)
    settle(live, release.digest, 1)

    live.compare_with("m", release.digest, reference(), stay=1)  # told twice: it goes on
    assert live.shifts("m", release.digest)
    live.compare_with("m", release.digest, reference(), stay=2)

    assert live.shifts("m", release.digest) == ()
    live.close()

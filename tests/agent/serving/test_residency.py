"""Whose worker is in memory, the switch where memory is short, and the way back."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
import psutil
import pytest

from mailboat_agent.serving import lane, priority, standing
from mailboat_agent.serving.process import InferenceFailed, WorkerNotStarted
from mailboat_agent.serving.residency import NoRoom, Residency
from mailboat_agent.serving.runtime import ModelNotServed, ReleaseWithdrawn, Runtime
from mailboat_agent.serving.spare import SpareWorkers
from mailboat_agent.serving.standing import Spare
from mailboat_agent.serving.tensors import Tensor
from mailboat_schemas.documents.serving_policy import Load, ServingPolicy

pytestmark = pytest.mark.slow  # each starts processes that load a model

MIB = 1 << 20
PEAK_MIB = 256  # of every release here
NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def runtime_of(budget_mib: int, **more: Any) -> Runtime:
    return Runtime(
        clock=lambda: NOON,
        residency=Residency(budget_mib * MIB),
        **more,
    )


@pytest.fixture
def one_at_a_time() -> Iterator[Runtime]:
    runtime = runtime_of(PEAK_MIB + 10)
    yield runtime
    runtime.close()


def release(bench: Any, model: bytes, *, name: str = "m", lazy: bool = False, **more: Any) -> Any:
    made = replace(bench.release(model, **more), model=name)
    if not lazy:
        return made
    policy = ServingPolicy(load=Load.LAZY)
    return replace(made, variant=made.variant.model_copy(update={"serving": policy}))


def ask(runtime: Runtime, model: str = "m", value: float = 1.0, seconds: float = 60) -> Any:
    array = np.full((1, 4), value, np.float32)
    return runtime.submit(
        model,
        None,
        [Tensor("x", "FP32", (1, 4), array.tobytes())],
        [],
        deadline=time.monotonic() + seconds,
        encode=lambda release, inference: (release.version, inference.outputs[0].values()[0]),
    )


# --- the budget, by itself -----------------------------------------------------------------------


def held(residency: Residency, name: str, mib: int, **more: Any) -> Any:
    """A holder that goes at once when it is asked to."""
    claim = residency.claim(name, mib * MIB, lambda: None, seconds_max=0.1, **more)
    claim.give_way = lambda: residency._claims.remove(claim)
    return claim


def test_who_was_not_asked_for_longest_goes_and_a_spare_one_before_all() -> None:
    residency = Residency(300 * MIB)
    first, second, spare = (held(residency, name, 100) for name in ("a", "b", "c"))
    first.used_at, second.used_at, spare.spare = 1, 2, True

    held(residency, "d", 100)
    assert residency._claims[:2] == [first, second]
    held(residency, "e", 100)
    assert residency._claims[0] is second


def test_a_pinned_model_never_goes() -> None:
    residency = Residency(200 * MIB)
    held(residency, "a", 150, pinned=True)

    with pytest.raises(NoRoom, match=r"needs 100 MiB of memory; .* take 150 MiB of 200 MiB"):
        held(residency, "b", 100)


def test_what_is_larger_than_the_budget_is_refused_and_unloads_nobody() -> None:
    residency = Residency(200 * MIB)
    other = residency.claim("a", 100 * MIB, lambda: pytest.fail("it was asked to go"))

    with pytest.raises(NoRoom):
        residency.claim("b", 201 * MIB, lambda: None)
    assert residency._claims == [other]


def test_it_fits_beside_only_if_the_machine_has_the_memory_too() -> None:
    for available_mib, fits in ((99, False), (100, True)):
        residency = Residency(None, available_bytes=lambda mib=available_mib: mib * MIB)  # type: ignore[misc]
        assert residency.fits_beside(100 * MIB) is fits


def test_a_worker_makes_way_while_it_loads_and_is_an_equal_afterwards() -> None:
    if not priority.can_be_given_back():
        pytest.skip("needs CAP_SYS_NICE")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        own = os.getpriority(os.PRIO_PROCESS, 0)
        priority.make_way(process.pid)
        assert os.getpriority(os.PRIO_PROCESS, process.pid) == priority.LOADING_NICE
        priority.be_equal(process.pid)
        assert os.getpriority(os.PRIO_PROCESS, process.pid) == own


def test_memory_that_somebody_waits_for_does_not_change_hands_in_silence() -> None:
    """The worker was asked to go, and became the spare one before it heard of it."""
    residency, heard = Residency(100 * MIB), threading.Event()
    claim = residency.claim("a", 100 * MIB, lambda: None)
    with pytest.raises(NoRoom):  # its holder does not go in time
        residency.claim("b", 100 * MIB, lambda: None, seconds_max=0.01)
    residency.change_hands(claim, heard.set, spare=True)

    assert heard.is_set()


def test_who_was_asked_to_go_does_not_come_again_before_whoever_it_went_for() -> None:
    residency, asked = Residency(100 * MIB), []

    def go() -> None:
        asked.append("b")
        (held,) = residency._claims
        threading.Thread(target=residency.release, args=[held]).start()

    first = residency.claim("a", 100 * MIB, lambda: None)
    other = threading.Thread(target=residency.claim, args=["b", 100 * MIB, go])
    other.start()
    _until(lambda: first.asked)
    residency.release(first)
    again = residency.claim("a", 100 * MIB, lambda: None)

    assert asked == ["b"]
    assert residency._claims == [again]
    other.join()


def test_a_candidate_takes_no_place_that_is_kept_for_the_last_release(
    bench: Any, models: Any
) -> None:
    spares = SpareWorkers(Residency(None), 60)
    last = release(bench, models.affine(2))
    spares.expect(last)
    candidate = release(bench, models.affine(3), version="1.1.0")

    assert not spares.keep(candidate, cast("Spare", None))
    assert spares.expects(last)


# --- with workers --------------------------------------------------------------------------------


def test_a_lazy_model_is_loaded_by_its_first_request(
    runtime: Runtime, bench: Any, models: Any
) -> None:
    runtime.serve(release(bench, models.affine(), lazy=True))
    assert (runtime.worker_pid("m"), runtime.ready("m")) == (0, True)

    assert ask(runtime).result(60) == ("1.0.0", 3.0)
    assert runtime.worker_pid("m")


def test_two_models_take_turns_in_memory_for_one(
    one_at_a_time: Runtime, bench: Any, models: Any
) -> None:
    runtime = one_at_a_time
    runtime.serve(release(bench, models.affine(2), name="m"))
    runtime.serve(release(bench, models.affine(3), name="n"))
    assert (runtime.worker_pid("m"), runtime.ready("m")) == (0, True)

    assert ask(runtime, "m").result(60) == ("1.0.0", 3.0)
    assert runtime.worker_pid("n") == 0
    assert ask(runtime, "n").result(60) == ("1.0.0", 4.0)
    assert len(psutil.Process().children()) == 1


def test_beside_a_pinned_model_there_is_no_room_and_that_is_said(bench: Any, models: Any) -> None:
    runtime = runtime_of(PEAK_MIB + 10, pinned=frozenset({"m"}))
    runtime.serve(release(bench, models.affine(2)))

    with pytest.raises(NoRoom):
        runtime.serve(release(bench, models.affine(3), name="n"))
    runtime.serve(release(bench, models.affine(3), name="n", lazy=True))
    with pytest.raises(NoRoom):
        ask(runtime, "n").result(60)
    assert ask(runtime).result(60) == ("1.0.0", 3.0)
    runtime.close()


def test_a_switch_without_memory_for_both_lets_callers_wait_and_fails_nobody(
    one_at_a_time: Runtime, bench: Any, models: Any
) -> None:
    runtime = one_at_a_time
    runtime.serve(release(bench, models.affine(2)))
    stop, answers, most = threading.Event(), [], 0
    errors: list[BaseException] = []

    def load() -> None:
        while not stop.is_set():
            try:
                answers.append(ask(runtime).result(60))
            except BaseException as error:  # noqa: BLE001 - any failure is what the test is about
                errors.append(error)

    clients = [threading.Thread(target=load) for _ in range(3)]
    for client in clients:
        client.start()
    _until(lambda: answers)
    switching = threading.Thread(
        target=runtime.serve, args=[release(bench, models.affine(3), version="1.1.0")]
    )
    switching.start()
    while switching.is_alive():
        most = max(most, len(psutil.Process().children()))
        time.sleep(0.005)
    _until(lambda: errors or answers[-1][0] == "1.1.0")
    stop.set()
    for client in clients:
        client.join()

    assert errors == []
    assert most == 1  # never both
    assert {version for version, _ in answers} == {"1.0.0", "1.1.0"}
    assert ask(runtime).result(60) == ("1.1.0", 4.0)


def test_a_release_that_does_not_load_in_the_gap_gives_the_old_one_its_place_back(
    one_at_a_time: Runtime, bench: Any, models: Any
) -> None:
    runtime = one_at_a_time
    runtime.serve(release(bench, models.affine(2)))
    found: list[Any] = []
    asking = threading.Thread(target=lambda: found.append(_patiently(runtime)))

    def serve() -> None:
        asking.start()
        runtime.serve(release(bench, b"garbage", version="2.0.0"))

    with pytest.raises(InferenceFailed):
        serve()
    asking.join(60)

    assert found == [("1.0.0", 3.0)]
    assert ask(runtime).result(60) == ("1.0.0", 3.0)


def _patiently(runtime: Runtime) -> Any:
    time.sleep(0.05)  # into the gap
    return ask(runtime).result(60)


def test_the_way_back_is_a_moment_while_the_last_worker_is_kept(bench: Any, models: Any) -> None:
    runtime = runtime_of(4 * PEAK_MIB, spare_seconds=60)
    old = release(bench, models.affine(2))
    runtime.serve(old)
    pid = runtime.worker_pid("m")
    runtime.serve(release(bench, models.affine(3), version="1.1.0"))
    runtime.serve(old)

    assert runtime.worker_pid("m") == pid  # nothing was loaded
    assert ask(runtime).result(60) == ("1.0.0", 3.0)
    runtime.close()
    assert not psutil.Process().children()


def test_a_spare_worker_goes_for_whoever_needs_its_memory(bench: Any, models: Any) -> None:
    runtime = runtime_of(2 * PEAK_MIB, spare_seconds=60)
    runtime.serve(release(bench, models.affine(2)))
    first = runtime.worker_pid("m")
    runtime.serve(release(bench, models.affine(3), version="1.1.0"))
    _until(lambda: len(psutil.Process().children()) == 2)
    runtime.serve(release(bench, models.affine(4), name="n"))

    assert not psutil.pid_exists(first)
    assert ask(runtime).result(60) == ("1.1.0", 4.0)
    runtime.close()


def test_a_spare_worker_is_kept_for_its_time_only(bench: Any, models: Any) -> None:
    runtime = runtime_of(4 * PEAK_MIB, spare_seconds=0.3)
    runtime.serve(release(bench, models.affine(2)))
    runtime.serve(release(bench, models.affine(3), version="1.1.0"))

    _until(lambda: len(psutil.Process().children()) == 1)
    runtime.close()


def test_a_withdrawn_release_leaves_no_spare_worker(bench: Any, models: Any) -> None:
    runtime = runtime_of(4 * PEAK_MIB, spare_seconds=60)
    old = release(bench, models.affine(2))
    runtime.serve(old)
    runtime.serve(release(bench, models.affine(3), version="1.1.0"))
    runtime.bar("m", frozenset({old.digest}))

    _until(lambda: len(psutil.Process().children()) == 1)
    with pytest.raises(ReleaseWithdrawn):
        runtime.serve(old)
    runtime.close()


def bar_in_the_gap(patch: pytest.MonkeyPatch, runtime: Runtime, *digests: str) -> None:
    """Once the old worker has gone, and before the new one is loaded."""
    load = standing.load_worker

    def bar(*what: Any) -> Any:
        runtime.bar("m", frozenset(digests))
        return load(*what)

    patch.setattr(standing, "load_worker", bar)


def test_a_release_withdrawn_in_the_gap_does_not_serve(
    one_at_a_time: Runtime, bench: Any, models: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = one_at_a_time
    runtime.serve(release(bench, models.affine(2)))
    new = release(bench, models.affine(3), version="1.1.0")
    bar_in_the_gap(monkeypatch, runtime, new.digest)

    with pytest.raises(ReleaseWithdrawn):
        runtime.serve(new)
    assert ask(runtime).result(60) == ("1.0.0", 3.0)
    assert len(psutil.Process().children()) == 1


def test_when_both_are_withdrawn_in_the_gap_nothing_serves(
    one_at_a_time: Runtime, bench: Any, models: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = one_at_a_time
    old, new = release(bench, models.affine(2)), release(bench, models.affine(3), version="1.1.0")
    runtime.serve(old)
    bar_in_the_gap(monkeypatch, runtime, old.digest, new.digest)

    with pytest.raises(ReleaseWithdrawn):
        runtime.serve(new)
    with pytest.raises(ModelNotServed):
        ask(runtime)
    _until(lambda: not psutil.Process().children())


def _until(holds: Any, seconds: float = 60) -> None:
    give_up = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < give_up, "it never came true"
        time.sleep(0.02)


def test_a_spare_worker_that_cannot_be_used_is_ended(bench: Any, models: Any) -> None:
    residency = Residency(4 * PEAK_MIB * MIB)
    runtime = Runtime(clock=lambda: NOON, residency=residency, spare_seconds=60)
    old = release(bench, models.affine(2))
    runtime.serve(old)
    runtime.serve(release(bench, models.affine(3), version="1.1.0"))
    with pytest.raises(OSError, match="descriptor"):  # as when the agent has none left
        runtime.serve(replace(old, model_fd=-1))

    assert len(psutil.Process().children()) == 1
    assert residency.held_bytes == PEAK_MIB * MIB
    assert ask(runtime).result(60) == ("1.1.0", 4.0)
    runtime.close()


def test_closing_waits_for_no_release_that_is_being_loaded(bench: Any, models: Any) -> None:
    runtime = runtime_of(4 * PEAK_MIB)
    raised: list[BaseException] = []

    def serve() -> None:
        try:
            runtime.serve(release(bench, models.affine(2)))
        except WorkerNotStarted as error:
            raised.append(error)

    serving = threading.Thread(target=serve)
    serving.start()
    _until(lambda: psutil.Process().children())
    (loading,) = psutil.Process().children()
    loading.suspend()
    runtime.close()
    assert serving.is_alive()
    loading.resume()
    serving.join(60)

    assert "the agent stops" in str(raised)
    assert runtime.models() == ()
    _until(lambda: not psutil.Process().children())


def test_no_descriptor_is_left_behind(bench: Any, models: Any) -> None:
    runtime = runtime_of(PEAK_MIB + 10, spare_seconds=60)
    old, new = release(bench, models.affine(2)), release(bench, models.affine(3), version="1.1.0")
    before = _descriptors()
    for each in (old, new, old):
        runtime.serve(each)
        ask(runtime).result(60)
    with pytest.raises(InferenceFailed):
        runtime.serve(release(bench, b"garbage", version="2.0.0"))
    runtime.close()

    assert _descriptors() <= before + 1  # the garbage's file is the bench's


def _descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_a_worker_that_is_waited_for_takes_no_memory_from_others(
    bench: Any, models: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane, "restart_delay_seconds", lambda deaths: 3600 if deaths else 0)
    residency = Residency(PEAK_MIB * MIB)
    runtime = Runtime(clock=lambda: NOON, residency=residency)
    runtime.serve(release(bench, models.affine(2)))
    first = runtime.worker_pid("m")
    os.kill(first, signal.SIGKILL)
    _until(lambda: runtime.worker_pid("m") not in (0, first) and runtime.ready("m"))
    os.kill(runtime.worker_pid("m"), signal.SIGKILL)  # the second is waited for

    _until(lambda: residency.held_bytes == 0)
    runtime.serve(release(bench, models.affine(3), name="n"))
    assert ask(runtime, "n").result(60) == ("1.0.0", 4.0)
    runtime.close()


def test_a_worker_that_died_unseen_fails_nobody(
    bench: Any, models: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailboat_agent.serving.lane.IDLE_LOOK_SECONDS", 60)
    runtime = runtime_of(PEAK_MIB)
    runtime.serve(release(bench, models.affine(2)))
    worker = psutil.Process(runtime.worker_pid("m"))
    worker.kill()
    _until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)

    assert ask(runtime).result(60) == ("1.0.0", 3.0)
    runtime.close()

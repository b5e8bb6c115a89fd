import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import psutil
import pytest

from mailboat_agent.serving.trial import TIMED_INFERENCES_MIN, GateFailed, TrialReport, run_trial
from mailboat_schemas.class_budgets import NO_BUDGETS, ClassBudgets
from mailboat_schemas.documents.interface import Interface
from mailboat_schemas.documents.release import Runtime
from mailboat_schemas.errors import ReleaseRejected

MIB = 1 << 20
X = np.linspace(-1, 1, 5 * 4, dtype=np.float32).reshape(5, 1, 4)  # five samples of [1, 4]

Try = Callable[..., TrialReport]


@pytest.fixture
def attempt(bench: Any, make_variant: Any, make_golden: Any, x_to_y: Interface) -> Try:
    """Try a model against the golden outputs that it should give; y = 2x + 1 unless told."""

    def attempt(
        model: bytes,
        *,
        x: Any = X,
        y: Any = 2 * X + 1,
        interface: Interface = x_to_y,
        memory_limit_bytes: int = 512 * MIB,
        golden: bool = True,
        budgets: ClassBudgets = NO_BUDGETS,
        **variant: Any,
    ) -> TrialReport:
        return run_trial(
            model_fd=bench.open(model),
            golden_fd=bench.open(make_golden(x, np.asarray(y, np.float32))) if golden else None,
            interface=interface,
            variant=make_variant(**variant),
            memory_limit_bytes=memory_limit_bytes,
            budgets=budgets,
        )

    return attempt


def refused(attempt: Try, *arguments: Any, **options: Any) -> GateFailed:
    with pytest.raises(GateFailed) as failed:
        attempt(*arguments, **options)
    assert isinstance(failed.value, ReleaseRejected)
    assert not psutil.Process().children()  # whatever happened, nothing is left behind
    return failed.value


def test_a_good_model_passes_and_is_measured(attempt: Try, models: Any) -> None:
    report = attempt(models.affine(), latency_p95_ms_max=1000)

    assert report.samples == 5
    assert report.inferences >= TIMED_INFERENCES_MIN
    assert report.largest_difference < 1e-6
    assert 0 < report.latency_p50_ms <= report.latency_p95_ms <= report.latency_p99_ms
    assert report.cold_start_ms > report.latency_p99_ms
    assert 20 * MIB < report.peak_memory_bytes < 200 * MIB
    assert report.provider == "CPUExecutionProvider"
    assert not psutil.Process().children()


def test_garbage_does_not_load(attempt: Try) -> None:
    assert refused(attempt, b"\x08\x07garbage").reason == "load_failed"


def test_a_truncated_model_does_not_load(attempt: Try, models: Any) -> None:
    assert refused(attempt, models.affine()[:-20]).reason == "load_failed"


def test_wrong_outputs_are_refused_with_the_worst_of_them(attempt: Try, models: Any) -> None:
    y = 2 * X + 1
    y[3, 0, 2] += 0.5
    y[1, 0, 0] += 0.1

    failure = refused(attempt, models.affine(), y=y)

    assert failure.reason == "golden_mismatch"
    assert failure.evidence["tensor"] == "y"
    assert failure.evidence["sample"] == 3
    assert failure.evidence["largest_difference"] == pytest.approx(0.5, abs=1e-6)
    assert (failure.evidence["samples_failed"], failure.evidence["samples"]) == (2, 5)


def test_nan_never_passes(attempt: Try, models: Any) -> None:
    with np.errstate(invalid="ignore", divide="ignore"):
        y = np.log(X)  # NaN in the golden outputs too

    failure = refused(attempt, models.logarithm(), y=y, tolerance=1e9)

    assert failure.reason == "golden_mismatch"
    assert "NaN" in failure.evidence["problem"]


def test_an_error_on_a_golden_sample_is_a_mismatch(attempt: Try, models: Any) -> None:
    failure = refused(attempt, models.picky(), x=X + 10, y=X)

    assert failure.reason == "golden_mismatch"
    assert "out of" in failure.evidence["message"]


def test_no_golden_samples_is_no_pass(attempt: Try, models: Any) -> None:
    assert refused(attempt, models.affine(), golden=False).reason == "no_golden_output"


def test_an_output_without_golden_values_is_no_pass(
    attempt: Try, models: Any, x_to_y: Interface
) -> None:
    two = Interface.model_validate(
        {
            "inputs": [x_to_y.inputs[0].model_dump()],
            "outputs": [
                x_to_y.outputs[0].model_dump(),
                {"name": "z", "dtype": "bool", "shape": []},
            ],
        }
    )
    failure = refused(attempt, models.affine(), interface=two)

    assert failure.reason == "no_golden_output"
    assert failure.evidence["outputs"] == ["z"]


@pytest.mark.parametrize(
    "declared",
    [
        {"name": "x", "dtype": "float64", "shape": [-1, 4]},
        pytest.param({"name": "x", "dtype": "float32", "shape": [-1, 5]}, marks=pytest.mark.slow),
        pytest.param({"name": "x", "dtype": "float32", "shape": [-1, -1]}, marks=pytest.mark.slow),
        {"name": "other", "dtype": "float32", "shape": [-1, 4]},
    ],
)
def test_a_model_that_is_not_what_its_document_declares_is_refused(
    attempt: Try, models: Any, x_to_y: Interface, declared: dict[str, Any]
) -> None:
    interface = Interface.model_validate(
        {"inputs": [declared], "outputs": [x_to_y.outputs[0].model_dump()]}
    )
    assert refused(attempt, models.affine(), interface=interface).reason == "interface_mismatch"


def test_a_hanging_model_is_over_at_the_deadline(attempt: Try, models: Any) -> None:
    started = time.monotonic()
    failure = refused(attempt, models.hanging(), deadline_seconds=0.8)

    assert failure.reason == "hung"
    assert failure.evidence["stage"] == "cold start"
    assert time.monotonic() - started < 30


def test_a_model_that_takes_all_memory_is_refused_unharmed(attempt: Try, models: Any) -> None:
    failure = refused(attempt, models.hungry(2 << 30), y=X, peak_memory=128 * MIB)

    assert failure.reason == "memory_exceeded"
    assert failure.evidence["peak_memory_bytes"] < 300 * MIB


def test_a_model_that_needs_a_little_more_than_declared_is_refused(
    attempt: Try, models: Any
) -> None:
    failure = refused(attempt, models.hungry(30 * MIB), y=X, peak_memory=100 * MIB)

    assert failure.reason == "memory_exceeded"
    assert 100 * MIB < failure.evidence["peak_memory_bytes"] < 200 * MIB
    assert "message" not in failure.evidence  # measured, not refused by the kernel


@pytest.mark.slow
def test_the_class_budget_binds_even_when_the_release_declares_more(
    attempt: Try, models: Any
) -> None:
    failure = refused(
        attempt, models.hungry(80 * MIB), y=X, peak_memory=500 * MIB, memory_limit_bytes=100 * MIB
    )
    assert failure.evidence["limit_bytes"] == 100 * MIB

    of_class = ClassBudgets(memory_bytes=100 * MIB)
    failure = refused(
        attempt, models.hungry(80 * MIB), y=X, peak_memory=500 * MIB, budgets=of_class
    )
    assert failure.evidence["limit_bytes"] == 100 * MIB


def test_the_latency_of_the_class_binds_a_release_that_allows_itself_more(
    attempt: Try, models: Any
) -> None:
    of_class = ClassBudgets(latency_p95_ms_max=0.001)

    failure = refused(attempt, models.affine(), latency_p95_ms_max=1000, budgets=of_class)

    assert failure.reason == "latency_exceeded"
    assert failure.evidence["latency_p95_ms_max"] == 0.001


@pytest.mark.slow
def test_the_throughput_of_the_class_binds_a_release_that_promises_none(
    attempt: Try, models: Any
) -> None:
    of_class = ClassBudgets(throughput_per_second_min=1e9)

    assert refused(attempt, models.affine(), budgets=of_class).reason == "throughput_too_low"


@pytest.mark.slow
@pytest.mark.parametrize(("of_release", "of_class"), [(1e9, 1e-3), (1e-3, 1e9)])
def test_of_two_bounds_on_throughput_the_tighter_counts(
    attempt: Try, models: Any, of_release: float, of_class: float
) -> None:
    failure = refused(
        attempt,
        models.affine(),
        batches=[{"size": 1, "throughput_per_second_min": of_release}],
        budgets=ClassBudgets(throughput_per_second_min=of_class),
    )

    assert failure.evidence["throughput_per_second_min"] == 1e9


@pytest.mark.slow
def test_a_class_adds_nothing_to_what_a_release_allows_itself(attempt: Try, models: Any) -> None:
    of_class = ClassBudgets(
        memory_bytes=1 << 40, latency_p95_ms_max=1000, throughput_per_second_min=1e-3
    )

    failure = refused(attempt, models.affine(), latency_p95_ms_max=0.001, budgets=of_class)

    assert failure.evidence["latency_p95_ms_max"] == 0.001


def test_a_model_within_its_declared_memory_passes(attempt: Try, models: Any) -> None:
    assert attempt(models.hungry(30 * MIB), y=X, peak_memory=200 * MIB).samples == 5


def test_a_slow_model_exceeds_its_latency(attempt: Try, models: Any) -> None:
    failure = refused(attempt, models.looping(2000), y=X + 2000, latency_p95_ms_max=0.5)

    assert failure.reason == "latency_exceeded"
    assert failure.evidence["latency_p95_ms"] > 0.5


def test_a_slow_first_answer_exceeds_the_cold_start(attempt: Try, models: Any) -> None:
    assert refused(attempt, models.affine(), cold_start_ms_max=1).reason == "cold_start_exceeded"


def test_a_runtime_out_of_range_is_unsupported(attempt: Try, models: Any) -> None:
    failure = refused(attempt, models.affine(), needs=Runtime(version=">=99"))

    assert failure.reason == "runtime_unsupported"


def test_a_missing_provider_is_unsupported_and_a_later_one_is_taken(
    attempt: Try, models: Any
) -> None:
    only = Runtime(providers=("CUDAExecutionProvider",))
    first = Runtime(providers=("CUDAExecutionProvider", "CPUExecutionProvider"))

    assert refused(attempt, models.affine(), needs=only).reason == "runtime_unsupported"
    assert attempt(models.affine(), needs=first).provider == "CPUExecutionProvider"


@pytest.mark.slow
def test_a_crash_is_reported_with_its_signal(attempt: Try, models: Any) -> None:
    threading.Thread(target=_crash_the_busy_child, daemon=True).start()
    failure = refused(attempt, models.hanging(), deadline_seconds=90)

    assert failure.reason == "crashed"
    assert failure.evidence["ended"] == "signal SIGABRT"
    assert failure.evidence["peak_memory_bytes"] >= 0


def _crash_the_busy_child() -> None:
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up:
        for child in psutil.Process().children():
            # A second of processor time is more than it takes to load: it is in the loop.
            if sum(child.cpu_times()[:2]) > 1.0:
                os.kill(child.pid, signal.SIGABRT)
                return
        time.sleep(0.05)

"""Gates beyond golden samples within a tolerance: metrics, batches, leaks, checks, comparison."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from mailboat_agent.serving import kept_answers
from mailboat_agent.serving.kept_answers import KeptAnswers
from mailboat_agent.serving.metrics import MetricTally
from mailboat_agent.serving.opsets import declared_opsets, too_new
from mailboat_agent.serving.process import InferenceFailed, RuntimeFacts, Worker, WorkerOptions
from mailboat_agent.serving.provider_choice import NOT_BUILT_IN
from mailboat_agent.serving.relative import Comparison, refuse_worse
from mailboat_agent.serving.requirements import RuntimeUnsupported, usable_providers
from mailboat_agent.serving.served_release import ServedRelease
from mailboat_agent.serving.tensors import Tensor
from mailboat_agent.serving.timing import (
    BATCH_RUNS_MAX,
    BATCH_RUNS_MIN,
    ROUND_INFERENCES_MIN,
    batch_runs,
    refuse_leak,
    refuse_low_throughput,
    timing,
)
from mailboat_agent.serving.trial import GateFailed
from mailboat_agent.serving.trial_evidence import (
    EVIDENCE_FILE_BYTES_MAX,
    EVIDENCE_FILES_MAX,
    TrialEvidence,
)
from mailboat_schemas.documents.release import FileRole, Runtime
from mailboat_schemas.documents.trial_gates import GoldenMetric, MetricGate, RelativeGates
from trial_bench import MIB, X_TO_Y, descriptor, golden, tried, variant_of

pytestmark = pytest.mark.slow  # each starts processes that load a model

X = np.linspace(-1, 1, 5 * 4, dtype=np.float32).reshape(5, 1, 4)
SAMPLES = golden(in_x=X, out_y=2 * X + 1)


def refused(*arguments: Any, **options: Any) -> GateFailed:
    with pytest.raises(GateFailed) as failed:
        tried(*arguments, **options)
    return failed.value


# --- metrics -------------------------------------------------------------------------------------


def fp32(*values: float) -> Tensor:
    return Tensor("y", "FP32", (1, len(values)), np.array(values, np.float32).tobytes())


def judged(metric: GoldenMetric, bound: float, *pairs: tuple[Tensor, Tensor]) -> MetricTally:
    side = "at_most" if metric is GoldenMetric.RELATIVE_ERROR else "at_least"
    tally = MetricTally("y", MetricGate.model_validate({"metric": metric, side: bound}))
    for sample, (answer, expected) in enumerate(pairs):
        tally.add(sample, answer, expected)
    return tally


def test_top1_counts_rows_and_passes_exactly_at_its_bound() -> None:
    pairs = [(fp32(0, 9), fp32(1, 2)), (fp32(5, 1), fp32(1, 2))]

    tally = judged(GoldenMetric.TOP1, 0.5, *pairs)

    assert (tally.value, tally.holds) == (0.5, True)
    assert not judged(GoldenMetric.TOP1, 0.51, *pairs).holds


def test_accuracy_counts_equal_elements() -> None:
    assert judged(GoldenMetric.ACCURACY, 0.7, (fp32(1, 2, 3, 4), fp32(1, 2, 3, 5))).value == 0.75


def test_cosine_is_that_of_the_worst_sample() -> None:
    tally = judged(GoldenMetric.COSINE, 0.9, (fp32(1, 1), fp32(3, 3)), (fp32(1, 0), fp32(0, 1)))

    assert tally.value == pytest.approx(0)
    assert not tally.holds


def test_relative_error_has_an_upper_bound() -> None:
    tally = judged(GoldenMetric.RELATIVE_ERROR, 0.1, (fp32(1.1, 0), fp32(1, 0)))

    assert tally.value == pytest.approx(0.1, rel=1e-5)
    assert not judged(GoldenMetric.RELATIVE_ERROR, 0.09, (fp32(1.1, 0), fp32(1, 0))).holds


@pytest.mark.parametrize("metric", list(GoldenMetric))
def test_nan_passes_no_metric(metric: GoldenMetric) -> None:
    nan = fp32(float("nan"), 1)
    bound = 1e9 if metric is GoldenMetric.RELATIVE_ERROR else -1

    assert not judged(metric, bound, (nan, nan)).holds
    assert not judged(metric, bound, (fp32(1, 2), nan)).holds


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=2))
def test_an_answer_that_is_golden_passes_every_metric(values: list[float]) -> None:
    same = (fp32(*values), fp32(*values))

    for metric in GoldenMetric:
        bound = 1e-6 if metric is GoldenMetric.RELATIVE_ERROR else 1 - 1e-6
        assert judged(metric, bound, same).holds


@pytest.mark.slow
def test_a_metric_stands_in_for_the_tolerance_of_its_output(models: Any) -> None:
    near = golden(in_x=X, out_y=(2 * X + 1) * np.float32(1.01))
    gate = {"y": {"metric": "top1", "at_least": 1.0}}

    assert tried(models.affine(), near, metrics=gate).metrics == {"y": 1.0}
    failure = refused(models.affine(-2.0), near, metrics=gate)
    assert failure.reason == "golden_mismatch"
    assert "top1 of output 'y': 0" in failure.what


# --- batches, leaks ------------------------------------------------------------------------------


def mixing() -> bytes:
    """y = x less the mean over the batch: a row's answer depends on its neighbours."""
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0]),
            helper.make_node("Sub", ["x", "mean"], ["y"]),
        ],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
    )
    opset = [helper.make_opsetid("", 17)]
    content: bytes = helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString()
    return content


def test_each_declared_batch_is_measured_and_the_largest_makes_the_peak(models: Any) -> None:
    report = tried(models.affine(), SAMPLES, batches=[{"size": 4}])

    (batch,) = report.batches
    assert batch.batch_size == 4
    assert 0 < batch.latency_p50_ms <= batch.latency_p99_ms


@pytest.mark.slow
def test_a_batch_is_held_to_its_own_latency_and_memory(models: Any) -> None:
    slow = refused(models.affine(), SAMPLES, batches=[{"size": 8, "latency_p95_ms_max": 0.001}])
    assert slow.reason == "latency_exceeded"
    assert slow.evidence["batch_size"] == 8

    grows = golden(in_x=X, out_y=X)
    alone = tried(models.hungry(2 * MIB), grows, peak_memory=150 * MIB)
    assert alone.peak_memory_bytes < 150 * MIB
    batched = refused(models.hungry(2 * MIB), grows, peak_memory=150 * MIB, batches=[{"size": 64}])
    assert batched.reason == "memory_exceeded"


@pytest.mark.slow
def test_a_model_whose_rows_depend_on_their_neighbours_is_no_model_for_batches() -> None:
    samples = golden(in_x=X, out_y=np.zeros_like(X))

    failure = refused(mixing(), samples, batches=[{"size": 4}])

    assert failure.reason == "golden_mismatch"
    assert "in a batch of 4" in failure.what


def test_memory_that_grows_in_every_round_is_a_leak() -> None:
    step = ROUND_INFERENCES_MIN * (32 << 10)

    with pytest.raises(GateFailed) as failed:
        refuse_leak([100, 100 + step, 100 + 2 * step, 100 + 3 * step], ROUND_INFERENCES_MIN)
    assert failed.value.reason == "memory_leak"
    refuse_leak([100, 100 + step, 100 + 2 * step, 99 + 3 * step], ROUND_INFERENCES_MIN)
    refuse_leak([0, 9 * step, 9 * step, 9 * step], ROUND_INFERENCES_MIN)  # it has settled


# --- a check of the release's own ----------------------------------------------------------------

CHECK = b"""\
import base64, json, sys
import numpy as np

asked = json.load(sys.stdin)
assert asked["contract"] == "mailboat/check/v1"
first = asked["samples"][0]["inputs"]["x"]
x = np.frombuffer(base64.b64decode(first["data"]), "<f4").reshape(first["shape"])
drift = float(np.abs(infer({"x": x + np.float32(0.1)})["y"] - infer({"x": x})["y"]).max())
print(json.dumps({"measures": {"sensitivity": drift, "samples": len(asked["samples"])}}))
sys.exit(0 if bundle["limits.json"] else 1)
"""


def with_check(code: bytes) -> dict[str, Any]:
    return {"check.py": (FileRole.CHECK, code), "limits.json": (FileRole.OTHER, b"{}")}


def test_a_check_asks_the_model_and_its_measures_are_bound(models: Any) -> None:
    bound = {"measures": {"sensitivity": {"at_most": 0.3}}}

    report = tried(models.affine(), SAMPLES, files=with_check(CHECK), check=bound)

    assert report.check == {"sensitivity": pytest.approx(0.2, abs=1e-5), "samples": 5}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "gate", "reason", "told"),
    [
        (CHECK, {"measures": {"sensitivity": {"at_most": 0.1}}}, "check_failed", "at most 0.1"),
        (CHECK, {"measures": {"fairness": {"at_least": 1}}}, "check_broken", "'fairness'"),
        (b"import sys; sys.exit('too dark')", {}, "check_failed", "too dark"),
        (b"import sys; sys.exit(3)", {}, "check_broken", "exit code 3"),
        (b"1 / 0", {}, "check_broken", "check.py line 1"),
        (b"while True: print('x' * 1000)", {"seconds_max": 1}, "hung", "its own check"),
        (b"import numpy as np; np.ones(10**9)", {}, "memory_exceeded", "needs more"),
        (b"import sys; sys.modules['os'].abort()", {}, "crashed", "SIGABRT"),
        (b"import sys; sys.modules['os'].fork()", {}, "check_broken", "not permitted"),
    ],
)
def test_a_check_that_does_not_pass_is_told_in_words(
    models: Any, code: bytes, gate: dict[str, Any], reason: str, told: str
) -> None:
    options = {"check": gate} if gate else {}

    failure = refused(models.affine(), SAMPLES, files=with_check(code), **options)

    assert failure.reason == reason
    assert told in failure.what


# --- against what serves -------------------------------------------------------------------------


@pytest.fixture
def serving(models: Any) -> Iterator[ServedRelease]:
    model = models.affine(2.0)
    release = ServedRelease(
        model="m",
        version="1.0.0",
        digest="1" * 64,
        interface=X_TO_Y,
        variant=variant_of(model, {}),
        model_fd=descriptor(model),
        memory_limit_bytes=512 * MIB,
    )
    yield release
    os.close(release.model_fd)


@pytest.mark.slow
def test_a_candidate_is_compared_with_what_serves_on_this_device(
    models: Any, serving: ServedRelease
) -> None:
    loose = {"latency_p95_ratio_max": 100, "peak_memory_ratio_max": 2, "agreement_min": 1}

    same = tried(models.affine(), SAMPLES, incumbent=serving, relative=loose)
    assert same.relative is not None
    assert same.relative.agreement == 1.0
    assert same.relative.peak_memory_ratio == pytest.approx(1, abs=0.2)

    slow = refused(
        models.looping(5000),
        golden(in_x=X, out_y=X + 5000),
        incumbent=serving,
        relative={"latency_p95_ratio_max": 1.5},
    )
    assert slow.reason == "slower_than_serving"
    large = refused(
        models.hungry(60 * MIB),
        golden(in_x=X, out_y=X),
        incumbent=serving,
        relative={"peak_memory_ratio_max": 1.2},
    )
    assert large.reason == "larger_than_serving"
    other = refused(
        models.affine(3.0),
        golden(in_x=X, out_y=3 * X + 1),
        incumbent=serving,
        relative={"agreement_min": 0.5},
    )
    assert other.reason == "disagrees_with_serving"


@pytest.mark.slow
def test_where_nothing_serves_there_is_nothing_to_compare_with(models: Any) -> None:
    assert tried(models.affine(), SAMPLES, relative={"agreement_min": 1}).relative is None


# --- what the runtime can do ---------------------------------------------------------------------


def of_opset(version: int) -> bytes:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "graph", [value], [out])
    opsets = [helper.make_opsetid("", version), helper.make_opsetid("com.microsoft", 1)]
    content: bytes = helper.make_model(
        graph, opset_imports=opsets, ir_version=9
    ).SerializeToString()
    return content


def test_the_opset_is_read_without_loading_and_held_against_the_runtime() -> None:
    assert declared_opsets(of_opset(99)) == {"": 99, "com.microsoft": 1}
    assert (
        too_new({"": 99}, {"": 27})
        == "the model uses operator set ai.onnx 99, this runtime knows 27"
    )
    assert too_new({"": 27, "own": 9}, {"": 27}) == ""
    assert too_new({"": 99}, {}) == ""  # a runtime that does not tell is asked by loading


def test_a_model_of_a_later_opset_is_refused_in_words() -> None:
    failure = refused(of_opset(99), golden(in_x=X, out_y=X))

    assert failure.reason == "runtime_unsupported"
    assert "ai.onnx 99" in failure.what


def test_providers_are_taken_in_the_order_of_the_release(models: Any) -> None:
    facts = RuntimeFacts("1.31.1", ("AzureExecutionProvider", "CPUExecutionProvider"))
    first = variant_of(
        b"", {}, runtime=Runtime(providers=("TensorrtExecutionProvider", "CPUExecutionProvider"))
    )
    none = variant_of(b"", {}, runtime=Runtime(providers=("TensorrtExecutionProvider",)))

    assert usable_providers(first, facts) == ("CPUExecutionProvider",)
    with pytest.raises(
        RuntimeUnsupported, match="TensorrtExecutionProvider; this device has Azure"
    ):
        usable_providers(none, facts)


def test_a_provider_that_does_not_come_up_is_not_replaced_in_silence(models: Any) -> None:
    """onnxruntime goes on with another one, and only warns."""
    model_fd = descriptor(models.affine())
    worker = Worker.start(model_fd)
    os.close(model_fd)
    options = WorkerOptions(
        providers=("CUDAExecutionProvider",), threads=1, memory_limit_bytes=512 * MIB
    )
    try:
        with pytest.raises(InferenceFailed) as failed:
            worker.load(options, deadline_seconds=20)
    finally:
        worker.kill()

    assert failed.value.kind == "provider_failed"
    assert "CUDAExecutionProvider did not come up" in failed.value.message


def test_a_provider_that_is_not_built_in_is_passed_over_and_said(models: Any) -> None:
    liked = Runtime(providers=("CUDAExecutionProvider", "CPUExecutionProvider"))

    report = tried(models.affine(), SAMPLES, runtime=liked)

    assert report.provider == "CPUExecutionProvider"
    assert report.passed_over == ("CUDAExecutionProvider: " + NOT_BUILT_IN,)


# onnxruntime was built with CUDA, says it; and there is no card. What it then does is its own.
_WITHOUT_A_CARD = """
import os
if os.environ.get("ORT_DISABLE_TELEMETRY"):  # a worker, not the agent
    import onnxruntime
    onnxruntime.get_available_providers = lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
"""


@pytest.fixture
def without_a_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text(_WITHOUT_A_CARD)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def test_a_provider_without_its_card_is_passed_over_in_a_fresh_worker_and_said(
    without_a_card: None, models: Any
) -> None:
    liked = Runtime(providers=("CUDAExecutionProvider", "CPUExecutionProvider"))

    report = tried(models.affine(), SAMPLES, runtime=liked)

    assert report.provider == "CPUExecutionProvider"
    [why] = report.passed_over
    assert why.startswith("CUDAExecutionProvider: CUDAExecutionProvider did not come up")
    assert not psutil.Process().children()


def test_a_provider_without_its_card_and_no_other_declared_is_unsupported(
    without_a_card: None, models: Any
) -> None:
    failed = refused(
        models.affine(), SAMPLES, runtime=Runtime(providers=("CUDAExecutionProvider",))
    )

    assert failed.reason == "runtime_unsupported"
    assert "did not come up" in failed.what


def test_answers_that_add_up_to_more_than_golden_ones_could_are_not_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kept_answers, "ANSWERS_BYTES_MAX", 32)
    kept, answer = KeptAnswers(), (Tensor("y", "FP32", (1, 4), bytes(16)),)
    kept.keep(answer)
    kept.keep(answer)  # at the bound

    with pytest.raises(GateFailed, match="3 golden samples are 48 bytes") as failed:
        kept.keep(answer)

    assert failed.value.reason == "golden_mismatch"
    assert kept.answers == [answer, answer]


# --- evidence ------------------------------------------------------------------------------------


def test_evidence_is_kept_of_the_newest_few_within_its_bound(tmp_path: Any) -> None:
    room = TrialEvidence(tmp_path / "evidence")
    for number in range(EVIDENCE_FILES_MAX + 3):
        failure = GateFailed("hung", "It hung.", {"number": number}, {"more": "x" * 100})
        name = room.keep("m", f"1.0.{number}", "d" * 64, failure)
        os.utime(room.directory / name, (number, number))

    files = sorted(room.directory.iterdir())
    assert len(files) == EVIDENCE_FILES_MAX
    assert not (room.directory / f"m-1.0.0-{'d' * 12}-hung.json").exists()
    newest = json.loads((room.directory / f"m-1.0.18-{'d' * 12}-hung.json").read_bytes())
    assert (newest["reason"], newest["evidence"]["number"]) == ("hung", 18)


def test_evidence_that_is_too_much_loses_its_detail_first(tmp_path: Any) -> None:
    room = TrialEvidence(tmp_path)
    failure = GateFailed("hung", "It hung.", {"a": 1}, {"more": "x" * EVIDENCE_FILE_BYTES_MAX})

    content = json.loads((tmp_path / room.keep("m", "1.0.0", "d" * 64, failure)).read_bytes())

    assert content["evidence"] == {"a": 1}
    assert "detail" not in content


def test_a_full_disk_changes_no_verdict(tmp_path: Any) -> None:
    (tmp_path / "evidence").write_bytes(b"a file is in the way")

    failure = GateFailed("hung", "It hung.")
    assert TrialEvidence(tmp_path / "evidence").keep("m", "1.0.0", "d" * 64, failure) == ""


# --- throughput ----------------------------------------------------------------------------------


def test_throughput_counts_rows_by_the_time_of_all_runs_the_slow_ones_too() -> None:
    measured = timing(8, [10.0] * 19 + [210.0])

    assert measured.throughput_per_second == pytest.approx(20 * 8 / 0.4)
    assert timing(8, [10.0], rows=6).throughput_per_second == pytest.approx(600)


def test_a_throughput_exactly_at_its_bound_passes() -> None:
    measured = timing(4, [20.0] * 20)

    refuse_low_throughput(measured, 200.0)
    refuse_low_throughput(measured, None)
    with pytest.raises(GateFailed) as failed:
        refuse_low_throughput(measured, 200.1)
    assert failed.value.reason == "throughput_too_low"
    assert failed.value.evidence["batch_size"] == 4
    assert failed.value.evidence["throughput_per_second"] == pytest.approx(200)


def test_a_quick_model_is_timed_in_more_batches_and_a_slow_one_in_no_fewer() -> None:
    assert batch_runs(0.0) == batch_runs(0.01) == BATCH_RUNS_MAX
    assert batch_runs(2.0) == 100
    assert batch_runs(900.0) == BATCH_RUNS_MIN


@pytest.mark.slow
def test_a_batch_is_held_to_its_throughput(models: Any) -> None:
    bounded = {"size": 4, "throughput_per_second_min": 0.5}
    report = tried(models.affine(), SAMPLES, batches=[bounded])
    assert report.batches[0].throughput_per_second > 0.5
    assert report.batches[0].inferences >= BATCH_RUNS_MIN

    too_much = {"size": 4, "throughput_per_second_min": 1e9}
    assert refused(models.affine(), SAMPLES, batches=[too_much]).reason == "throughput_too_low"


@pytest.mark.slow
def test_single_requests_are_held_to_their_throughput(models: Any) -> None:
    too_much = {"size": 1, "throughput_per_second_min": 1e9}

    failure = refused(models.affine(), SAMPLES, batches=[too_much])

    assert failure.reason == "throughput_too_low"
    assert failure.evidence["batch_size"] == 1
    assert failure.evidence["inferences"] >= 32


def test_a_release_that_answers_fewer_a_second_than_what_serves_is_refused() -> None:
    found = Comparison(
        latency_p95_ratio=1.0, throughput_ratio=0.8, peak_memory_ratio=1.0, agreement=1.0
    )

    refuse_worse(found, RelativeGates(throughput_ratio_min=0.8))
    with pytest.raises(GateFailed) as failed:
        refuse_worse(found, RelativeGates(throughput_ratio_min=0.9))
    assert failed.value.reason == "throughput_below_serving"
    assert failed.value.evidence["throughput_ratio"] == 0.8

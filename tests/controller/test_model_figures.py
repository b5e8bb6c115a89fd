"""What is worked out from a model's answers and from its trials; no process, values in and out."""

import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import small_models
from mailboat_controller.bundles.comparison import compare, worst_drop
from mailboat_controller.bundles.gates import class_gates, gates
from mailboat_controller.bundles.latencies import Latency, latencies
from mailboat_controller.bundles.plot import ROWS_MAX, latency_plot
from mailboat_controller.bundles.proposal import (
    INT8_FACTOR,
    Measured,
    declare,
    runtime_range,
    step_above,
    step_below,
    tolerances,
)
from mailboat_controller.bundles.statistics import reference
from mailboat_controller.bundles.trying import Outcome
from mailboat_controller.deltas.layouts import onnx
from mailboat_controller.deltas.layouts.tensors import Unreadable
from mailboat_schemas.documents.hardware_class import HardwareClass
from mailboat_schemas.documents.interface import Interface
from mailboat_schemas.documents.reference import REFERENCE_BYTES_MAX, Reference
from mailboat_schemas.documents.release import Variant
from mailboat_schemas.errors import MalformedPayload, PayloadTooLarge

MIB = 1 << 20
REPORT = {
    "cold_start_ms": 200.0,
    "latency_p50_ms": 4.0,
    "latency_p95_ms": 5.0,
    "latency_p99_ms": 6.0,
    "samples": 16,
    "largest_difference": 0.0005,
    "peak_memory_bytes": 75 * MIB,
    "provider": "CPUExecutionProvider",
    "runtime_version": "1.31.1",
}
PASSED = Outcome(passed=True, evidence={}, report=REPORT, seconds=1.0)
INTERFACE = Interface.model_validate(
    {
        "inputs": [{"name": "x", "dtype": "float32", "shape": [-1, 4]}],
        "outputs": [{"name": "y", "dtype": "float32", "shape": [-1, 1]}],
    }
)


def variant(peak_memory: int = 100 * MIB, **health: Any) -> Variant:
    content = {
        "hardware_classes": ["c"],
        "files": [{"path": "m", "role": "model", "sha256": "0" * 64, "length": 3 * MIB}],
        "runtime": {},
        "peak_memory": peak_memory,
        "health": {"tolerance": 0.001, "latency_p95_ms_max": 10, **health},
    }
    return Variant.model_validate(content)


def closed(outcomes: list[Outcome]) -> dict[str, bool | None]:
    return {gate.name: gate.passed for gate in gates(INTERFACE, variant(), 512 * MIB, outcomes)}


# --- gates ---------------------------------------------------------------------------------------


def test_every_gate_of_a_passed_trial_says_how_much_is_left() -> None:
    found = {gate.name: gate for gate in gates(INTERFACE, variant(), 512 * MIB, [PASSED])}

    assert all(gate.passed for gate in found.values())
    assert found["peak memory"].margin == pytest.approx(0.25)
    assert found["latency p95"].margin == pytest.approx(0.5)
    assert found["latency p95"].declared == "≤ 10 ms"
    assert found["golden samples"].measured == "16 samples, off by 0.0005 at most"


def test_the_class_may_allow_less_memory_than_the_release_declares() -> None:
    found = {gate.name: gate for gate in gates(INTERFACE, variant(), 80 * MIB, [PASSED])}

    assert found["peak memory"].declared == "≤ 80 MiB"


def test_what_stands_behind_the_gate_that_closed_was_not_reached() -> None:
    failed = Outcome(
        passed=False,
        reason="golden_mismatch",
        what="3 of 16 golden samples fail",
        evidence={},
        report={},
        seconds=1.0,
    )

    found = closed([PASSED, failed])

    assert found["cold start"] is True
    assert found["golden samples"] is False
    assert found["clean restart"] is None


@pytest.mark.parametrize("reason", ["crashed", "hung"])
def test_a_process_that_ended_closes_the_gate_it_stood_at(reason: str) -> None:
    failed = Outcome(
        passed=False, reason=reason, what="", evidence={"stage": "latency"}, report={}, seconds=1.0
    )

    assert closed([failed])["latency p95"] is False


def test_a_reason_that_the_table_does_not_know_has_a_row_of_its_own() -> None:
    failed = Outcome(
        passed=False, reason="moon_phase", what="full", evidence={}, report={}, seconds=1.0
    )

    assert closed([failed])["moon_phase"] is False


def test_gates_that_a_release_declares_have_rows_where_it_does() -> None:
    declaring = variant(
        batches=[{"size": 8, "latency_p95_ms_max": 20}, {"size": 16}],
        relative={"latency_p95_ratio_max": 2},
    )
    batches = [
        {"batch_size": size, "latency_p50_ms": 1, "latency_p95_ms": p95, "latency_p99_ms": p95}
        for size, p95 in ((8, 30), (16, 60))
    ]
    slow = Outcome(
        passed=False,
        reason="latency_exceeded",
        what="",
        evidence={"batch_size": 8, "latency_p95_ms": 30},
        report={**REPORT, "batches": batches},
        seconds=1.0,
    )

    found = {gate.name: gate.passed for gate in gates(INTERFACE, declaring, 512 * MIB, [slow])}

    (of_one,) = [
        gate
        for gate in gates(INTERFACE, declaring, 512 * MIB, [slow])
        if gate.name == "latency p95"
    ]
    assert (of_one.passed, of_one.measured) == (True, "5 ms")
    assert found["latency p95, batch 8"] is False
    assert found["latency p95, batch 16"] is True  # measured, without a limit
    assert found["clean restart"] is None
    assert found["beside what serves"] is None
    assert "its own check" not in found


def test_a_throughput_that_was_too_low_says_by_how_much() -> None:
    declaring = variant(batches=[{"size": 8, "throughput_per_second_min": 100}])
    batch = {"batch_size": 8, "latency_p50_ms": 1, "latency_p95_ms": 1, "latency_p99_ms": 1}
    slow = Outcome(
        passed=False,
        reason="throughput_too_low",
        what="",
        evidence={"batch_size": 8, "throughput_per_second": 80.0},
        report={**REPORT, "batches": [{**batch, "throughput_per_second": 80.0}]},
        seconds=1.0,
    )

    found = {gate.name: gate for gate in gates(INTERFACE, declaring, 512 * MIB, [slow])}

    row = found["throughput, batch 8"]
    assert (row.declared, row.measured, row.passed) == ("≥ 100 /s", "80 /s", False)
    assert row.margin == pytest.approx(-0.25)
    assert found["latency p95"].passed is True
    assert found["clean restart"].passed is None  # not reached
    untold = gates(INTERFACE, declaring, 512 * MIB, [PASSED])[-1]
    assert (untold.name, untold.passed) == ("throughput, batch 8", None)


def test_with_nothing_to_compare_with_the_comparison_passes_and_says_so() -> None:
    declaring = variant(relative={"latency_p95_ratio_max": 2})

    found = {gate.name: gate for gate in gates(INTERFACE, declaring, 512 * MIB, [PASSED])}

    assert found["beside what serves"].passed is True
    assert "nothing serves here" in found["beside what serves"].measured


def test_a_gate_measured_with_the_gates_open_says_how_far_it_is_off() -> None:
    slow = {**REPORT, "latency_p95_ms": 15.0, "peak_memory_bytes": 200 * MIB}
    failed = Outcome(
        passed=False,
        reason="memory_exceeded",
        what="",
        evidence={},
        report=slow,
        seconds=1.0,
    )

    found = {gate.name: gate for gate in gates(INTERFACE, variant(), 512 * MIB, [failed])}

    assert found["peak memory"].margin == pytest.approx(-1.0)
    assert found["latency p95"].passed is False  # not reached by the trial, and it would close
    assert found["clean restart"].passed is None


def test_the_class_has_gates_of_its_own() -> None:
    described = HardwareClass.model_validate(
        {
            "apiVersion": "mailboat/v1",
            "kind": "HardwareClass",
            "metadata": {"name": "c"},
            "spec": {
                "arch": "aarch64",
                "memory_budget": "64MiB",
                "disk_budget": "2MiB",
                "latency_p95_ms_max": 4,
                "runtime": {"providers": ["CUDAExecutionProvider"]},
            },
        }
    )

    found = {
        gate.name: gate.passed for gate in class_gates(variant(), described, [PASSED], "x86_64")
    }

    assert found == {
        "declared memory": False,
        "disk": False,
        "largest file": True,
        "class's providers": False,
        "class's latency p95": False,
        "processor": None,  # said, and nothing fails by it
    }


# --- the picture ---------------------------------------------------------------------------------


def test_the_plot_is_well_formed_whatever_a_model_is_called() -> None:
    rows = [Latency(label="a<b&c", batch_size=1, p50=1.0, p95=2.0, p99=3.0)]

    picture = latency_plot('m "<script>" & co', rows, 4.0)

    root = ET.fromstring(picture)  # noqa: S314 - we have just drawn it
    assert root.tag.endswith("svg")
    assert any(element.text == "a<b&c" for element in root.iter())
    assert "stroke-dasharray" in picture  # the limit is near enough to be drawn
    assert "stroke-dasharray" not in latency_plot("m", rows, 1000.0)


def test_a_plot_has_rows_up_to_its_bound() -> None:
    row = Latency(label="x", batch_size=1, p50=1.0, p95=2.0, p99=3.0)

    assert latency_plot("m", [row] * (ROWS_MAX + 5), None).count("<rect x=") == ROWS_MAX
    assert latency_plot("m", [], None).endswith("</svg>\n")


def test_batch_sizes_are_rows_of_their_own() -> None:
    batch = {"batch_size": 8, **{key: REPORT[key] for key in REPORT if key.startswith("latency")}}
    outcome = replace(PASSED, report={**REPORT, "batches": [batch]})

    assert [row.label for row in latencies([outcome])] == ["as sampled", "batch 8"]


# --- what is proposed ----------------------------------------------------------------------------

MEASURED = Measured(
    peak_memory_bytes=75 * MIB, latency_p95_ms=12.0, cold_start_ms=150.0, trial_seconds=1.0
)


def test_what_is_declared_has_headroom_and_goes_up_to_a_step() -> None:
    declared = declare(MEASURED)

    assert declared.peak_memory_bytes == 96 * MIB
    assert declared.latency_p95_ms_max == 50.0
    assert declared.cold_start_ms_max == 5000.0
    assert declared.deadline_seconds == 100.0


def test_an_earlier_declaration_stays_while_it_fits() -> None:
    first = declare(MEASURED)
    busier = replace(MEASURED, latency_p95_ms=30.0, peak_memory_bytes=80 * MIB)

    assert declare(busier) != first
    assert declare(busier, first) == first
    assert declare(replace(MEASURED, latency_p95_ms=60.0), first).latency_p95_ms_max == 500.0
    assert declare(replace(MEASURED, latency_p95_ms=0.1), first).latency_p95_ms_max == 10.0


def test_every_batch_size_has_a_limit_of_its_own() -> None:
    measured = replace(MEASURED, batches={4: 40.0, 16: 160.0})
    first = declare(measured)

    assert first.batches == {4: 200.0, 16: 1000.0}
    assert declare(replace(measured, batches={4: 90.0, 32: 1.0}), first).batches == {
        4: 200.0,
        32: 10.0,
    }


def test_of_every_batch_size_a_quarter_of_its_throughput_is_asked_for() -> None:
    measured = replace(MEASURED, throughputs={1: 23.3, 8: 25.8, 16: 1_000_000.0})
    first = declare(measured)

    assert first.throughputs == {1: 5.0, 8: 5.0, 16: 1000.0}  # a batch in 10 ms, and no more
    busier = replace(measured, throughputs={1: 5.0, 8: 4.9, 32: 40.0})
    assert declare(busier, first).throughputs == {1: 5.0, 8: 1.0, 32: 10.0}
    faster = replace(measured, throughputs={1: 100.0, 8: 400.0})
    assert declare(faster, first).throughputs == {1: 5.0, 8: 100.0}


@given(st.floats(1e-6, 1e6))
def test_a_step_below_is_at_or_below_its_number_and_above_two_fifths_of_it(value: float) -> None:
    step = step_below(value)

    assert 0.4 * value * (1 - 1e-6) <= step <= value * (1 + 1e-6)
    assert f"{step:.3g}".replace(".", "").replace("e-0", "e").strip("0")[0] in "125"


@given(st.floats(1e-6, 1e6))
def test_a_step_is_at_or_above_its_number_and_below_two_and_a_half_of_it(value: float) -> None:
    step = step_above(value)

    assert value * (1 - 1e-6) <= step <= 2.5 * value * (1 + 1e-6)
    assert f"{step:.3g}".replace(".", "").replace("e-0", "e").strip("0")[0] in "125"


def test_tolerances_are_a_thousandth_of_an_outputs_size_and_none_for_whole_numbers() -> None:
    outputs = {
        "p": np.array([0.2, -0.9], np.float32),
        "logits": np.array([17.0], np.float32),
        "label": np.array([3], np.int64),
        "nothing": np.zeros(3, np.float32),
    }

    assert tolerances(outputs) == {"p": 1e-3, "logits": 2e-2, "label": 0.0, "nothing": 1e-5}
    assert tolerances({"p": outputs["p"]}, INT8_FACTOR) == {"p": 1e-2}


def test_a_newer_opset_asks_for_the_runtime_that_has_proven_to_run_it() -> None:
    assert runtime_range(21, "1.31.1") == ">=1.18"
    assert runtime_range(22, "1.31.1") == ">=1.31"
    assert runtime_range(None, "1.31.1") == ">=1.31"


def test_the_opset_is_read_without_the_library_and_nonsense_has_none() -> None:
    model = small_models.classifier()

    assert onnx.opset(memoryview(model)) == 15
    assert onnx.opset(memoryview(b"")) is None
    with pytest.raises(Unreadable):
        onnx.opset(memoryview(model[:-3]))


# --- reference statistics ------------------------------------------------------------------------


def test_deciles_hold_a_tenth_of_the_elements_each() -> None:
    values = np.random.default_rng(1).permutation(1000).astype(np.float32).reshape(100, 10)

    (tensor,) = reference({"x": values}, {}).tensors

    assert tensor.counts == (100,) * 10
    assert tensor.elements == 1000
    assert (tensor.minimum, tensor.maximum) == (0.0, 999.0)


def test_values_that_repeat_make_fewer_bins_and_every_element_is_in_one() -> None:
    values = np.array([[0.0] * 36 + [1.0, 2.0, 3.0, 4.0]], np.float32)

    (tensor,) = reference({"x": values}, {}).tensors

    assert tensor.edges == (0.0,)
    assert tensor.counts == (36, 4)


def test_each_of_a_few_values_has_a_bin_and_so_has_what_was_never_seen() -> None:
    """Deciles would put the rare 0 into one bin with 1, and -1 into one bin with the constant."""
    categories = np.array([[0]] * 3 + [[1]] * 57, np.int64)
    ones = np.full((60, 1), 1.0, np.float32)
    zeros = np.zeros((60, 1), np.float32)

    found = reference({"c": categories, "d": np.full((60, 1), 7), "e": ones, "z": zeros}, {})

    by_name = {tensor.name: (tensor.edges, tensor.counts) for tensor in found.tensors}
    assert by_name == {
        "c": ((-0.5, 0.5, 1.5), (0, 3, 57, 0)),
        "d": ((6.5, 7.5), (0, 60, 0)),
        "e": ((0.999, 1.001), (0, 60, 0)),
        "z": ((-1e-6, 1e-6), (0, 60, 0)),
    }


def test_nan_is_counted_and_in_no_bin() -> None:
    values = np.array([[1.0, np.nan], [2.0, np.inf]], np.float32)

    (tensor,) = reference({"x": values}, {}).tensors

    assert (tensor.elements, tensor.nan, sum(tensor.counts)) == (4, 1, 3)
    assert tensor.maximum == 2.0


def test_an_output_of_a_classifier_says_how_often_which_class() -> None:
    scores = np.array([[[0.1, 0.9]], [[0.8, 0.2]], [[0.3, 0.7]]], np.float32)

    found = reference({"x": scores}, {"y": scores, "map": np.ones((3, 1, 4, 4), np.float32)})

    by_name = {tensor.name: tensor.classes for tensor in found.tensors}
    assert by_name == {"x": (), "y": (1, 2), "map": ()}


def test_the_same_samples_give_the_same_bytes_which_a_device_reads() -> None:
    x = {"x": np.random.default_rng(1).normal(size=(50, 1, 4)).astype(np.float32)}
    content = reference(x, x).canonical_bytes()

    assert reference(x, x).canonical_bytes() == content
    assert Reference.parse(content).canonical_bytes() == content


@pytest.mark.parametrize(
    "change",
    [
        {"edges": [2.0, 1.0], "counts": [1, 1, 1]},
        {"edges": [1.0], "counts": [1]},
        {"counts": [99], "elements": 3},
        {"counts": [-1]},
        {"name": ""},
        {"unknown": 1},
    ],
)
def test_statistics_that_contradict_themselves_are_refused(change: dict[str, Any]) -> None:
    tensor = {"name": "x", "side": "input", "elements": 10, **change}
    content = {"samples": 1, "tensors": [tensor]}

    with pytest.raises(MalformedPayload):
        Reference.parse(json.dumps(content).encode())


def test_statistics_over_their_bound_are_refused() -> None:
    with pytest.raises(PayloadTooLarge):
        Reference.parse(b" " * (REFERENCE_BYTES_MAX + 1))


# --- original and smaller ------------------------------------------------------------------------


def test_equal_outputs_lose_nothing() -> None:
    y = {"y": np.array([[1.0, np.nan, np.inf]], np.float32)}

    (found,) = compare(y, y)

    assert (found.max_error, found.cosine, found.drop) == (0.0, 1.0, 0.0)


def test_a_classifier_loses_by_decisions_and_another_output_by_direction() -> None:
    original = {
        "class": np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.7, 0.3]]),
        "score": np.array([[1.0], [0.0]]),
    }
    smaller = {
        "class": np.array([[0.8, 0.2], [0.6, 0.4], [0.2, 0.8], [0.7, 0.3]]),
        "score": np.array([[1.0], [1.0]]),
    }

    by_class, by_score = compare(original, smaller)

    assert (by_class.top_1, by_class.drop) == (0.75, 0.25)
    assert by_class.max_error == pytest.approx(0.2)
    assert by_score.top_1 is None
    assert by_score.drop == pytest.approx(1 - 2**-0.5)
    assert worst_drop([by_class, by_score]) == by_score.drop


def test_nan_where_there_was_a_number_is_the_worst_there_is() -> None:
    (found,) = compare({"y": np.ones((2, 1))}, {"y": np.array([[1.0], [np.nan]])})

    assert found.max_error == np.inf
    assert found.drop == 1.0


def test_another_shape_is_another_model() -> None:
    with pytest.raises(ValueError, match="'y'"):
        compare({"y": np.ones((2, 1))}, {"y": np.ones((2, 2))})

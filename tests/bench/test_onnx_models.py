"""A sample of onnx's test data through our trial; `python -m bench.onnx_models` does them all."""

import pytest
from bench.onnx_models import run, sample

SAMPLE = 40
REASONS = {"", "load_failed", "golden_mismatch", "runtime_unsupported", "not_a_release"}
REASONS |= {"interface_mismatch"}


@pytest.mark.slow
def test_a_sample_of_onnx_test_data_passes_or_is_refused_with_a_reason() -> None:
    outcomes = run(sample(SAMPLE, seed=19))  # asserts that nothing is left behind

    assert {outcome.reason for outcome in outcomes} <= REASONS
    assert all(outcome.words for outcome in outcomes if outcome.reason)
    assert sum(outcome.reason == "" for outcome in outcomes) > SAMPLE / 2

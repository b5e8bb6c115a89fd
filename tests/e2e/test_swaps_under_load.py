"""Callers at a constant rate while releases come and go: none of them is failed by it."""

import pytest
from bench.serving import models, swaps

# The bench's bound is for a quiet machine; a rollback that waits for a time-out takes longer still.
ROLLBACK_SECONDS_MAX = 25.0


@pytest.mark.slow
def test_no_request_fails_while_releases_come_and_go() -> None:
    """The whole of it, with 50 swaps and a bound on the p99, is `bench.serving.swaps`."""
    result = swaps.measure(models.tiny(), swaps=10, rollbacks=4, before_seconds=3.0)

    assert (result.failed, result.failures) == (0, ())
    assert (result.swaps, result.rollbacks) == (10, 4)
    assert result.rollback_seconds_max <= ROLLBACK_SECONDS_MAX
    assert result.requests_during > 100

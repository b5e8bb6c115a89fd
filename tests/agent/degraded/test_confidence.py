import math
import struct

import pytest

from mailboat_agent.degraded.confidence import CREDIT_MAX, SCORES_MAX, ShareCap, confidence_of
from mailboat_agent.serving.tensors import Tensor
from mailboat_schemas.documents.degraded_policy import Confidence, ConfidenceRule


def scores(*rows: tuple[float, ...]) -> Tensor:
    values = [value for row in rows for value in row]
    data = struct.pack(f"<{len(values)}f", *values)
    return Tensor("scores", "FP32", (len(rows), len(rows[0])), data)


def policy(rule: str) -> Confidence:
    return Confidence(output="scores", rule=ConfidenceRule(rule), threshold=0.5)


@pytest.mark.parametrize(
    ("rule", "row", "expected"),
    [
        ("top-1", (0.1, 0.7, 0.2), 0.7),
        ("max-softmax", (0.0, 0.0, 0.0, 0.0), 0.25),
        ("max-softmax", (1000.0, 0.0), 1.0),  # without overflow
        ("margin", (0.1, 0.7, 0.2), 0.5),
        ("margin", (0.4,), 0.4),
    ],
)
def test_each_rule_reads_how_sure_a_row_is(
    rule: str, row: tuple[float, ...], expected: float
) -> None:
    assert confidence_of(policy(rule), [scores(row)]) == pytest.approx(expected, abs=1e-6)


def test_an_answer_is_as_sure_as_its_least_sure_row() -> None:
    assert confidence_of(policy("top-1"), [scores((0.9, 0.1), (0.6, 0.4))]) == pytest.approx(0.6)


@pytest.mark.parametrize(
    "output",
    [
        scores((math.nan, 0.9)),
        Tensor("other", "FP32", (1, 1), struct.pack("<f", 0.9)),
        Tensor("scores", "INT64", (1, 1), struct.pack("<q", 1)),
        Tensor("scores", "FP32", (0, 4), b""),
        Tensor("scores", "FP32", (), struct.pack("<f", 0.9)),
        Tensor("scores", "FP32", (1, SCORES_MAX + 1), bytes(4 * (SCORES_MAX + 1))),
    ],
)
def test_what_cannot_be_judged_is_not_sure(output: Tensor) -> None:
    assert confidence_of(policy("top-1"), [output]) == 0.0


def test_no_more_than_the_share_is_asked_elsewhere() -> None:
    cap, asked = ShareCap(), 0
    for count in range(1, 1001):
        cap.earn(0.1)
        asked += cap.spend()
        assert asked <= 0.1 * count + 1e-6
    assert asked == 100


def test_a_quiet_hour_is_not_saved_up_for_a_burst() -> None:
    cap = ShareCap()
    for _ in range(100_000):
        cap.earn(0.1)

    assert [cap.spend() for _ in range(20)].count(True) == CREDIT_MAX

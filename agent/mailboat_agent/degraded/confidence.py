"""How sure an answer is, and how many unsure ones may be asked elsewhere. Pure."""

import heapq
import math
from collections.abc import Sequence

from mailboat_agent.serving.tensors import FLOATS, Tensor
from mailboat_schemas.documents.degraded_policy import Confidence, ConfidenceRule

SCORES_MAX = 65_536  # of one answer; with more nobody can say how sure it is in a millisecond
CREDIT_MAX = 10.0  # a quiet hour does not send a whole burst elsewhere


def confidence_of(policy: Confidence, outputs: Sequence[Tensor]) -> float:
    """Of the least sure row of the scores. 0 where it cannot be said: unknown is not sure.

    Rows run along the last axis; an output with one axis is one row.
    """
    scores = next((each for each in outputs if each.name == policy.output), None)
    if scores is None or scores.datatype not in FLOATS or not scores.shape:
        return 0.0
    width = scores.shape[-1]
    if width < 1 or not 0 < math.prod(scores.shape) <= SCORES_MAX:
        return 0.0
    values = scores.values()
    if not all(map(math.isfinite, values)):
        return 0.0
    rows = (values[start : start + width] for start in range(0, len(values), width))
    return min(_of_row(policy.rule, row) for row in rows)


def _of_row(rule: ConfidenceRule, row: Sequence[float]) -> float:
    largest = max(row)
    match rule:
        case ConfidenceRule.TOP_1:
            return largest
        case ConfidenceRule.MAX_SOFTMAX:
            return 1 / sum(math.exp(value - largest) for value in row)
        case ConfidenceRule.MARGIN:
            return largest - heapq.nlargest(2, row)[1] if len(row) > 1 else largest


class ShareCap:
    """At most this share of all requests is asked elsewhere, however many are unsure.

    Each request earns its share, each that is asked elsewhere costs one.
    """

    def __init__(self) -> None:
        self._credit = 0.0

    def earn(self, share_max: float) -> None:
        self._credit = min(CREDIT_MAX, self._credit + share_max)

    def spend(self) -> bool:
        """Whether one more may be asked elsewhere; if so it counts."""
        # A tenth, ten times, is a little less than one.
        if self._credit < 1 - 1e-9:
            return False
        self._credit -= 1
        return True

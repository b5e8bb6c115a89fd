"""Answers to golden samples that a later stage of the trial looks at again."""

from collections.abc import Sequence

from mailboat_agent.serving.gate_failed import GateFailed
from mailboat_agent.serving.golden import GOLDEN_BYTES_MAX
from mailboat_agent.serving.tensors import Tensor

# Twice what the right answers can take; one answer alone may be as large as a whole golden file.
ANSWERS_BYTES_MAX = 2 * GOLDEN_BYTES_MAX


class KeptAnswers:
    """One for each sample, in order."""

    def __init__(self) -> None:
        self.answers: list[Sequence[Tensor]] = []
        self._size_bytes = 0

    def keep(self, outputs: Sequence[Tensor]) -> None:
        """
        Raises:
            GateFailed: golden_mismatch; they add up to more than right answers could.
        """
        self._size_bytes += sum(len(tensor.data) for tensor in outputs)
        if self._size_bytes > ANSWERS_BYTES_MAX:
            raise GateFailed(
                "golden_mismatch",
                f"The answers to {len(self.answers) + 1} golden samples are {self._size_bytes} "
                f"bytes; golden outputs are {GOLDEN_BYTES_MAX} at most.",
                {"bytes": self._size_bytes, "bytes_max": ANSWERS_BYTES_MAX},
            )
        self.answers.append(outputs)

"""What golden samples say of answers: each output is within its tolerance, or passes its metric."""

from collections.abc import Sequence
from itertools import islice

from mailboat_agent.serving.gate_failed import GateFailed
from mailboat_agent.serving.golden import Difference, Golden, compare
from mailboat_agent.serving.metrics import MetricTally
from mailboat_agent.serving.tensors import Tensor
from mailboat_schemas.documents.health import Health

ELEMENTS_TOLD_MAX = 256  # of a tensor, in the evidence that stays on the device
ELEMENT_CHARS_MAX = 64  # of a text


class GoldenVerdict:
    """Is told the answers one by one, then asked."""

    def __init__(self, golden: Golden, health: Health) -> None:
        self._golden = golden
        self._health = health
        self._tallies = {name: MetricTally(name, gate) for name, gate in health.metrics.items()}
        self._worst: Difference | None = None
        self._failed: set[int] = set()
        self._samples = 0
        self._worst_answer: Sequence[Tensor] = ()

    def add(self, sample: int, outputs: Sequence[Tensor]) -> None:
        answered = {tensor.name: tensor for tensor in outputs}
        self._samples += 1
        for expected in self._golden.outputs[sample]:
            if (tally := self._tallies.get(expected.name)) is not None:
                tally.add(sample, answered.get(expected.name), expected)
        by_tolerance = [t for t in self._golden.outputs[sample] if t.name not in self._tallies]
        for difference in compare(sample, outputs, by_tolerance, self._health):
            if not difference.within:
                self._failed.add(sample)
            if self._worst is None or difference.excess > self._worst.excess:
                self._worst, self._worst_answer = difference, outputs

    @property
    def largest_difference(self) -> float:
        return 0.0 if self._worst is None else self._worst.largest or 0.0

    @property
    def metrics(self) -> dict[str, float]:
        """By output; those of which nothing can be said are left out."""
        told = {name: tally.value for name, tally in self._tallies.items()}
        return {name: value for name, value in told.items() if value is not None}

    def refuse(self, where: str = "") -> None:
        """``where`` stands behind what is told, such as " in a batch of 8".

        Raises:
            GateFailed: golden_mismatch.
        """
        if self._worst is not None and not self._worst.within:
            self._refuse_difference(self._worst, where)
        for tally in self._tallies.values():
            if not tally.holds:
                raise GateFailed(
                    "golden_mismatch",
                    f"The golden samples{where}: {tally.told()}.",
                    {
                        "tensor": tally.name,
                        "metric": tally.gate.metric.value,
                        "value": tally.value,
                        "problem": tally.problem,
                        "samples": self._samples,
                    },
                )

    def _refuse_difference(self, worst: Difference, where: str) -> None:
        how = worst.problem or f"off by {worst.largest:.6g}, {worst.tolerance:.6g} is allowed"
        raise GateFailed(
            "golden_mismatch",
            f"{len(self._failed)} of {self._samples} golden samples fail{where}; the worst is "
            f"sample {worst.sample}, output {worst.tensor!r}: {how}.",
            {
                "tensor": worst.tensor,
                "sample": worst.sample,
                "largest_difference": worst.largest,
                "tolerance": worst.tolerance,
                "problem": worst.problem,
                "samples_failed": len(self._failed),
                "samples": self._samples,
            },
            {
                "answered": _told(self._worst_answer, worst.tensor),
                "golden": _told(self._golden.outputs[worst.sample], worst.tensor),
                "inputs": [
                    _told(self._golden.inputs[worst.sample], tensor.name)
                    for tensor in self._golden.inputs[worst.sample]
                ],
            },
        )


def _told(tensors: Sequence[Tensor], name: str) -> dict[str, object] | None:
    """The first elements of one of them."""
    tensor = next((each for each in tensors if each.name == name), None)
    if tensor is None:
        return None
    return {
        "name": name,
        "datatype": tensor.datatype,
        "shape": list(tensor.shape),
        "first_values": [
            value.decode(errors="replace")[:ELEMENT_CHARS_MAX]
            if isinstance(value, bytes)
            else value
            for value in islice(tensor.iterate(), ELEMENTS_TOLD_MAX)
        ],
    }

"""What is kept of an answer that has gone to its caller."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mailboat_agent.serving.tensors import Tensor


@dataclass(frozen=True, slots=True)
class Observed:
    """One successful inference, with bytes of its own."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    latency_ms: float

    @property
    def size_bytes(self) -> int:
        return size_bytes(self.inputs, self.outputs)


def size_bytes(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> int:
    return sum(len(tensor.data) for tensor in (*inputs, *outputs))


def keep(inputs: Sequence[Tensor], outputs: Sequence[Tensor], latency_ms: float) -> Observed:
    """A copy: the buffers of an answer may be used again as soon as it has gone."""
    return Observed(_copied(inputs), _copied(outputs), latency_ms)


def _copied(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return tuple(replace(tensor, data=bytes(tensor.data)) for tensor in tensors)

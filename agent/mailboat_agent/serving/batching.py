"""Several requests as one run of the model: what may be joined, joined, and taken apart again.

Only where the release asks for it, every input and output has a free first dimension, and all
elements are of a fixed size. Rows of two requests then lie one behind the other; that a row's
answer does not depend on its neighbours is what the release declares by asking.
"""

from collections.abc import Sequence
from itertools import accumulate

from mailboat_agent.serving.process import Inference
from mailboat_agent.serving.shared_tensors import JoinedTensor
from mailboat_agent.serving.tensors import Tensor
from mailboat_schemas.documents.interface import Interface

# What two requests must have in common to run as one: names, types, shapes but for the rows, and
# the outputs that are asked for.
JoinKey = tuple[tuple[tuple[str, str, tuple[int, ...]], ...], tuple[str, ...]]


class CannotSplit(Exception):
    """The answer to a joined request has other rows than its inputs."""


def can_be_joined(interface: Interface) -> bool:
    """Whether requests to this model can run as one at all."""
    tensors = (*interface.inputs, *interface.outputs)
    return all(each.shape and each.shape[0] == -1 and each.dtype != "string" for each in tensors)


def join_key(inputs: Sequence[Tensor], outputs: Sequence[str]) -> JoinKey | None:
    """None for a request that runs alone: it has no rows, or inputs of different numbers of them.

    ``inputs`` fit an interface that `can_be_joined`.
    """
    rows = inputs[0].shape[0]
    if rows == 0 or any(tensor.shape[0] != rows for tensor in inputs):
        return None
    described = sorted((tensor.name, tensor.datatype, tensor.shape[1:]) for tensor in inputs)
    return tuple(described), tuple(outputs)


def joined(requests: Sequence[Sequence[Tensor]]) -> tuple[JoinedTensor, ...]:
    """The inputs of requests of the same `join_key`, in the order of the first. Copies nothing."""
    by_name = [{tensor.name: tensor for tensor in inputs} for inputs in requests]
    rows = sum(inputs[0].shape[0] for inputs in requests)
    return tuple(
        JoinedTensor(
            first.name,
            first.datatype,
            (rows, *first.shape[1:]),
            tuple(tensors[first.name].data for tensors in by_name),
        )
        for first in requests[0]
    )


def split(inference: Inference, rows: Sequence[int]) -> list[Inference]:
    """Each request's part of the answer, in the order in which they were joined. Copies nothing.

    Raises:
        CannotSplit
    """
    total = sum(rows)
    for tensor in inference.outputs:
        if not tensor.shape or tensor.shape[0] != total or tensor.datatype == "BYTES":
            raise CannotSplit(f"{tensor.name!r} has the shape {tensor.shape} for {total} rows")
    ends = list(accumulate(rows))
    return [
        Inference(
            tuple(_rows_of(tensor, end - count, end) for tensor in inference.outputs),
            inference.run_ms,
        )
        for count, end in zip(rows, ends, strict=True)
    ]


def _rows_of(tensor: Tensor, first: int, end: int) -> Tensor:
    row_bytes = len(tensor.data) // tensor.shape[0]
    data = memoryview(tensor.data)[first * row_bytes : end * row_bytes]
    return Tensor(tensor.name, tensor.datatype, (end - first, *tensor.shape[1:]), data)

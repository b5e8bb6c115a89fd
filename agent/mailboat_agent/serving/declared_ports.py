"""A document's tensors in the words that onnxruntime's are told in."""

from collections.abc import Sequence

from mailboat_agent.serving.tensors import OIP_OF_DOCUMENT
from mailboat_agent.serving.worker_values import Port
from mailboat_schemas.documents.interface import Tensor


def declared_ports(tensors: Sequence[Tensor]) -> tuple[Port, ...]:
    return tuple(
        Port(
            tensor.name,
            OIP_OF_DOCUMENT[tensor.dtype],
            tuple(None if size == -1 else size for size in tensor.shape),
        )
        for tensor in tensors
    )

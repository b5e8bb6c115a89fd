"""What callers may rely on: the document's interface, held against the session and each request.

Everything that a request can get wrong is found here, before the worker. So an error that comes
out of the worker is the model's own, and counts against the release.
"""

from collections.abc import Iterable, Sequence

from mailboat_agent.serving.process import Description, Port
from mailboat_agent.serving.tensors import (
    DATATYPES,
    OIP_OF_DOCUMENT,
    TENSOR_BYTES_MAX,
    BadTensors,
    Tensor,
    element_count,
)
from mailboat_schemas.documents.interface import Interface
from mailboat_schemas.documents.interface import Tensor as DeclaredTensor

Dimension = int | str | None


def differences(interface: Interface, session: Description) -> tuple[str, ...]:
    """Where the model that was loaded is not the one that the document declares; empty if it is."""
    return (
        *_differences("input", interface.inputs, session.inputs),
        *_differences("output", interface.outputs, session.outputs),
    )


def _differences(
    side: str, declared: Sequence[DeclaredTensor], held: Sequence[Port]
) -> Iterable[str]:
    ports = {port.name: port for port in held}
    for name in ports.keys() - {tensor.name for tensor in declared}:
        yield f"{side} {name!r} is not declared"
    for tensor in declared:
        port = ports.get(tensor.name)
        if port is None:
            yield f"{side} {tensor.name!r} is declared and the model has none"
        elif port.datatype != OIP_OF_DOCUMENT[tensor.dtype]:
            yield f"{side} {tensor.name!r} is declared {tensor.dtype} and is {port.datatype}"
        elif not _shapes_agree(tensor.shape, port.shape):
            yield f"{side} {tensor.name!r} is declared {list(tensor.shape)}, is {list(port.shape)}"


def _shapes_agree(declared: tuple[int, ...], held: tuple[Dimension, ...]) -> bool:
    """A fixed dimension of the model is declared as such; a free one may be declared fixed."""
    return len(declared) == len(held) and all(
        ours == theirs or not isinstance(theirs, int)
        for ours, theirs in zip(declared, held, strict=True)
    )


def check_request(
    interface: Interface,
    session: Description | None,
    inputs: Sequence[Tensor],
    outputs: Sequence[str],
) -> None:
    """Refuse what does not fit the interface.

    A dimension that the model names ("batch") must be the same wherever the name stands; without
    a session (None) nobody knows of names.

    Raises:
        BadTensors: names the tensor.
    """
    declared = {tensor.name: tensor for tensor in interface.inputs}
    given = [tensor.name for tensor in inputs]
    if len(set(given)) != len(given):
        raise BadTensors("An input is given twice.")
    if unknown := sorted(set(given) - declared.keys()):
        raise BadTensors(f"The model has no input {unknown[0]!r}; it has {', '.join(declared)}.")
    if missing := sorted(declared.keys() - set(given)):
        raise BadTensors(f"Input {missing[0]!r} is missing.")
    known = {tensor.name for tensor in interface.outputs}
    if unknown := sorted(set(outputs) - known):
        raise BadTensors(f"The model has no output {unknown[0]!r}; it has {', '.join(known)}.")
    if len(set(outputs)) != len(outputs):
        raise BadTensors("An output is asked for twice.")
    held = {} if session is None else {port.name: port.shape for port in session.inputs}
    free: dict[str, int] = {}
    for tensor in inputs:
        _check_tensor(declared[tensor.name], tensor)
        if session is not None:
            _bind(tensor, held[tensor.name], free)


def _check_tensor(declared: DeclaredTensor, tensor: Tensor) -> None:
    if tensor.datatype != OIP_OF_DOCUMENT[declared.dtype]:
        raise BadTensors(
            f"Input {tensor.name!r} is {tensor.datatype}, "
            f"the model takes {OIP_OF_DOCUMENT[declared.dtype]}."
        )
    fits = len(tensor.shape) == len(declared.shape) and all(
        ours in (theirs, -1) for theirs, ours in zip(tensor.shape, declared.shape, strict=True)
    )
    if not fits:
        raise BadTensors(
            f"Input {tensor.name!r} has the shape {list(tensor.shape)}, "
            f"the model takes {list(declared.shape)}."
        )
    if 0 in tensor.shape and 0 not in declared.shape:
        # Many models fail on nothing, and that would count against the release.
        raise BadTensors(f"Input {tensor.name!r} has no elements: its shape is {tensor.shape}.")


def _bind(tensor: Tensor, shape: tuple[Dimension, ...], free: dict[str, int]) -> None:
    for size, dimension in zip(tensor.shape, shape, strict=True):
        if isinstance(dimension, str) and free.setdefault(dimension, size) != size:
            raise BadTensors(
                f"Input {tensor.name!r} has {size} where another input has {free[dimension]} "
                f"(both are the dimension {dimension!r})."
            )


def smallest_inputs(interface: Interface) -> tuple[Tensor, ...]:
    """Zeros, and 1 for every free dimension: something to warm up with, not a test.

    Raises:
        BadTensors: even that is over the bound of a tensor.
    """
    tensors = []
    for declared in interface.inputs:
        shape = tuple(max(dimension, 1) for dimension in declared.shape)
        datatype = OIP_OF_DOCUMENT[declared.dtype]
        # Zero is all zero bytes in every type; an empty string is a length of zero.
        size_bytes = element_count(shape) * (DATATYPES[datatype].item_bytes or 4)
        if size_bytes > TENSOR_BYTES_MAX:
            raise BadTensors(f"Input {declared.name!r} is over {TENSOR_BYTES_MAX} bytes.")
        tensors.append(Tensor(declared.name, datatype, shape, bytes(size_bytes)))
    return tuple(tensors)

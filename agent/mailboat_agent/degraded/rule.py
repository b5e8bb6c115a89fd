"""The constant answer of a fallback rule, in as many rows as the request has. Pure."""

from collections.abc import Sequence

from mailboat_agent.serving.json_tensors import tensor_of_values
from mailboat_agent.serving.tensors import (
    ELEMENTS_MAX,
    OIP_OF_DOCUMENT,
    TENSOR_BYTES_MAX,
    BadTensors,
    Tensor,
    element_count,
)
from mailboat_schemas.documents.degraded_policy import FallbackOutput, FallbackRule


def answer_of_rule(
    rule: FallbackRule, inputs: Sequence[Tensor], wanted: Sequence[str]
) -> tuple[Tensor, ...]:
    """The outputs that are asked for; ``wanted`` empty means all.

    Raises:
        BadTensors: an output is asked for that the rule does not have, far too many rows, or rows
            of nothing, which would be a large answer to a request of a few bytes.
    """
    known = {output.name: output for output in rule.outputs}
    for name in wanted:
        if name not in known:
            raise BadTensors(f"There is no output {name[:128]!r}.")
    rows = inputs[0].shape[0] if inputs and inputs[0].shape else 1
    if rows and not element_count(inputs[0].shape):
        raise BadTensors(f"Input {inputs[0].name!r} has rows and no elements.")
    left_bytes = TENSOR_BYTES_MAX  # of all outputs together
    answered = []
    for output in [known[name] for name in wanted] if wanted else rule.outputs:
        answered.append(_tensor(output, rows, left_bytes))
        left_bytes -= len(answered[-1].data)
    return tuple(answered)


def _tensor(output: FallbackOutput, rows: int, bytes_max: int) -> Tensor:
    varies = output.shape[:1] == (-1,)
    shape = (rows, *output.row_shape) if varies else output.shape
    times = rows if varies else 1
    if len(output.values) * times > ELEMENTS_MAX:
        raise BadTensors(f"Output {output.name!r} would have more than {ELEMENTS_MAX} elements.")
    one = _row(output)
    if len(one.data) * times > bytes_max:
        raise BadTensors(f"The outputs of so many rows would be over {TENSOR_BYTES_MAX} bytes.")
    return Tensor(output.name, one.datatype, shape, bytes(one.data) * times)


def _row(output: FallbackOutput) -> Tensor:
    values = output.values
    if output.dtype.startswith("float"):
        values = tuple(float(value) for value in values)
    datatype = OIP_OF_DOCUMENT[output.dtype]
    return tensor_of_values(output.name, datatype, output.row_shape, values)

"""The constant answer of a fallback rule, in as many rows as the request has. Pure."""

from collections.abc import Sequence

from mailboat_agent.serving.json_tensors import tensor_of_values
from mailboat_agent.serving.tensors import ELEMENTS_MAX, OIP_OF_DOCUMENT, BadTensors, Tensor
from mailboat_schemas.documents.degraded_policy import FallbackOutput, FallbackRule


def answer_of_rule(
    rule: FallbackRule, inputs: Sequence[Tensor], wanted: Sequence[str]
) -> tuple[Tensor, ...]:
    """The outputs that are asked for; ``wanted`` empty means all.

    Raises:
        BadTensors: an output is asked for that the rule does not have, or far too many rows.
    """
    known = {output.name: output for output in rule.outputs}
    for name in wanted:
        if name not in known:
            raise BadTensors(f"There is no output {name[:128]!r}.")
    rows = inputs[0].shape[0] if inputs and inputs[0].shape else 1
    chosen = [known[name] for name in wanted] if wanted else rule.outputs
    return tuple(_tensor(output, rows) for output in chosen)


def _tensor(output: FallbackOutput, rows: int) -> Tensor:
    varies = output.shape[:1] == (-1,)
    shape = (rows, *output.row_shape) if varies else output.shape
    times = rows if varies else 1
    if len(output.values) * times > ELEMENTS_MAX:
        raise BadTensors(f"Output {output.name!r} would have more than {ELEMENTS_MAX} elements.")
    values = output.values
    if output.dtype.startswith("float"):
        values = tuple(float(value) for value in values)
    datatype = OIP_OF_DOCUMENT[output.dtype]
    return tensor_of_values(output.name, datatype, shape, values * times)

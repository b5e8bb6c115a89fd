"""What a release allows a device to answer with when it cannot answer well itself."""

import math
from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Self

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    model_serializer,
    model_validator,
)

from mailboat_schemas.documents.document import SizeBytes, Strict
from mailboat_schemas.documents.interface import TENSORS_MAX, Interface, Tensor, TensorType

VALUES_MAX = 4096  # of one output of a fallback rule: a row of class scores, not an image
CACHE_BYTES_MAX = 64 << 20
CACHE_SECONDS_MAX = 86_400

Scalar = StrictBool | StrictInt | StrictFloat | StrictStr

_KINDS: Mapping[str, tuple[type, ...]] = MappingProxyType(
    {"bool": (bool,), "string": (str,)}
    | dict.fromkeys(("float16", "float32", "float64"), (int, float))
)
_LARGEST: Mapping[str, float] = MappingProxyType(
    {"float16": 65_504.0, "float32": 3.4028234e38, "float64": 1.7976931348623157e308}
)
_INTEGER_RANGES: Mapping[str, tuple[int, int]] = MappingProxyType(
    {f"int{bits}": (-(1 << bits - 1), (1 << bits - 1) - 1) for bits in (8, 16, 32, 64)}
    | {f"uint{bits}": (0, (1 << bits) - 1) for bits in (8, 16, 32, 64)}
)


class ConfidenceRule(StrEnum):
    """How sure an answer is, read from its scores: one row of the output's last axis at a time."""

    TOP_1 = "top-1"  # the largest value; the output holds probabilities
    MAX_SOFTMAX = "max-softmax"  # the largest probability; the output holds logits
    MARGIN = "margin"  # between the largest value and the next


class Confidence(Strict):
    """When an answer is so unsure that the endpoints which the device names are worth asking."""

    output: str = Field(min_length=1, max_length=128, description="with the scores")
    rule: ConfidenceRule = ConfidenceRule.TOP_1
    threshold: float = Field(ge=0, le=1, description="below it the answer is unsure")
    share_max: float = Field(
        default=0.1, gt=0, le=1, description="of all requests, that may be asked elsewhere"
    )


class FallbackOutput(Strict):
    """A constant output. A shape that begins with -1 has a row of ``values`` for each of the
    request's."""

    name: str = Field(min_length=1, max_length=128)
    dtype: TensorType
    shape: tuple[int, ...] = Field(max_length=8)
    values: tuple[Scalar, ...] = Field(min_length=1, max_length=VALUES_MAX)

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Without the leading dimension that varies."""
        return self.shape[1:] if self.shape[:1] == (-1,) else self.shape

    @model_validator(mode="after")
    def _values_are_what_they_say(self) -> Self:
        if any(size < 1 for size in self.row_shape):
            raise ValueError("only the first dimension of a fallback output may be -1")
        if math.prod(self.row_shape) != len(self.values):
            raise ValueError(f"{len(self.values)} values do not fill the shape {self.shape}")
        for value in self.values:
            if not _fits(self.dtype, value):
                raise ValueError(f"{value!r} is no {self.dtype}")
        return self


class FallbackRule(Strict):
    """A constant answer, such as the class "unknown" with the confidence 0."""

    outputs: tuple[FallbackOutput, ...] = Field(min_length=1, max_length=TENSORS_MAX)
    on_failure: bool = Field(
        default=False, description="also while the release is there and its worker fails"
    )

    @model_validator(mode="after")
    def _each_output_once(self) -> Self:
        names = [output.name for output in self.outputs]
        if len(set(names)) != len(names):
            raise ValueError("a fallback output is named twice")
        return self


class AnswerCache(Strict):
    """Earlier answers to the very same inputs, given again when nothing better can answer."""

    bytes_max: SizeBytes = Field(default=1 << 20, ge=1 << 10, le=CACHE_BYTES_MAX)
    seconds_max: float = Field(default=300, gt=0, le=CACHE_SECONDS_MAX)


class DegradedPolicy(Strict):
    """Nothing of this is on unless it is written."""

    confidence: Confidence | None = None
    fallback: FallbackRule | None = None
    cache: AnswerCache | None = None
    inputs_stay_on_device: bool = Field(
        default=False, description="whatever endpoints the device names, none is sent an input"
    )

    @model_serializer(mode="wrap")
    def _without_what_is_not_there(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # As in `ServingPolicy`.
        return {k: v for k, v in write(self).items() if v is not None}

    def problem_with(self, interface: Interface) -> str | None:
        """What of it does not fit what callers rely on; None if all does."""
        outputs = {tensor.name: tensor for tensor in interface.outputs}
        if self.confidence is not None:
            scores = outputs.get(self.confidence.output)
            if scores is None or not scores.dtype.startswith("float") or not scores.shape:
                return f"the confidence's output {self.confidence.output!r} has no float scores"
        if self.fallback is None:
            return None
        if {output.name for output in self.fallback.outputs} != set(outputs):
            return "the fallback rule does not give exactly the interface's outputs"
        for given in self.fallback.outputs:
            if not _is_one(given, outputs[given.name]):
                return f"the fallback output {given.name!r} is not of the interface's type or shape"
        return None


def _is_one(given: FallbackOutput, declared: Tensor) -> bool:
    if given.dtype != declared.dtype or len(given.shape) != len(declared.shape):
        return False
    return all(
        wanted in (-1, size) for size, wanted in zip(given.shape, declared.shape, strict=True)
    )


def _fits(dtype: str, value: bool | float | str) -> bool:
    if dtype in _INTEGER_RANGES:
        low, high = _INTEGER_RANGES[dtype]
        return type(value) is int and low <= value <= high
    if type(value) not in _KINDS[dtype]:
        return False
    return not isinstance(value, int | float) or abs(value) <= _LARGEST.get(dtype, 1)

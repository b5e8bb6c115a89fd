"""What callers of a model rely on: its inputs and outputs by name, type and shape."""

from typing import Literal

from pydantic import Field

from mailboat_schemas.documents.document import Strict

TENSORS_MAX = 64

TensorType = Literal[
    "float32",
    "float64",
    "float16",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "bool",
    "string",
]


class Tensor(Strict):
    """One input or output. A dimension of -1 may vary from request to request."""

    name: str = Field(min_length=1, max_length=128)
    dtype: TensorType
    shape: tuple[int, ...] = Field(max_length=8)


class Interface(Strict):
    """What callers of the model rely on. Changing it is a new major version."""

    inputs: tuple[Tensor, ...] = Field(min_length=1, max_length=TENSORS_MAX)
    outputs: tuple[Tensor, ...] = Field(min_length=1, max_length=TENSORS_MAX)

"""Reference statistics: what a model's inputs and outputs looked like when it was released.

A file of role ``reference`` in a bundle: JSON, made by `mailboat model build` from the samples that
the release was built with, read by the device while the release soaks. Counts only, so that the
same samples give the same bytes.
"""

import json
from typing import Literal, Self

from pydantic import Field, ValidationError, model_validator

from mailboat_schemas.documents.document import Strict
from mailboat_schemas.documents.interface import TENSORS_MAX
from mailboat_schemas.errors import MalformedPayload, PayloadTooLarge

REFERENCE_BYTES_MAX = 1 << 20
EDGES_MAX = 64
CLASSES_MAX = 1024  # of a classifier; more are not a distribution that anybody compares


class TensorReference(Strict):
    """One tensor over all samples, element by element.

    ``counts[i]`` elements lie in ``(edges[i - 1], edges[i]]``; the first bin has no lower edge, the
    last no upper one. NaN is in no bin.
    """

    name: str = Field(min_length=1, max_length=128)
    side: Literal["input", "output"]
    elements: int = Field(ge=1, description="all of them, NaN too")
    nan: int = Field(default=0, ge=0)
    mean: float | None = Field(default=None, description="of the finite elements")
    std: float | None = Field(default=None, ge=0)
    minimum: float | None = None
    maximum: float | None = None
    edges: tuple[float, ...] = Field(default=(), max_length=EDGES_MAX, description="ascending")
    counts: tuple[int, ...] = Field(default=(), max_length=EDGES_MAX + 1)
    # Rows by the place of their largest element: what a classifier answered how often.
    classes: tuple[int, ...] = Field(default=(), max_length=CLASSES_MAX)

    @model_validator(mode="after")
    def _bins_fit_their_edges(self) -> Self:
        if any(a >= b for a, b in zip(self.edges, self.edges[1:], strict=False)):
            raise ValueError("edges are not ascending")
        if self.edges and len(self.counts) != len(self.edges) + 1:
            raise ValueError("there is one bin more than edges")
        if any(count < 0 for count in (*self.counts, *self.classes)):
            raise ValueError("a count is negative")
        if sum(self.counts) + self.nan > self.elements:
            raise ValueError("the bins hold more elements than there are")
        return self


class Reference(Strict):
    """Read with `parse`; ``samples`` inferences are behind it."""

    format: Literal["mailboat/reference/v1"] = "mailboat/reference/v1"
    samples: int = Field(ge=1)
    tensors: tuple[TensorReference, ...] = Field(min_length=1, max_length=2 * TENSORS_MAX)

    def canonical_bytes(self) -> bytes:
        """The same statistics, the same bytes: sorted keys, ASCII, one newline."""
        content = self.model_dump(mode="json")
        return json.dumps(content, sort_keys=True, separators=(",", ":")).encode() + b"\n"

    @classmethod
    def parse(cls, content: bytes) -> Self:
        """Read the file of a release whose bytes have been verified.

        Raises:
            PayloadTooLarge, MalformedPayload
        """
        if len(content) > REFERENCE_BYTES_MAX:
            raise PayloadTooLarge("file of reference statistics", len(content), REFERENCE_BYTES_MAX)
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise MalformedPayload(
                f"The reference statistics do not hold: {place}: {first['msg']}.",
                next_step="make them again with `mailboat model build`.",
            ) from error

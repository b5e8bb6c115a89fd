"""What stands before and behind a model: Python of the release's own, run in the worker."""

from typing import Self

from pydantic import Field, model_validator

from mailboat_schemas.documents.document import Strict
from mailboat_schemas.documents.interface import Interface


class Pipeline(Strict):
    """The release's interface is what callers see; ``model_interface`` what the model itself has.

    The code is in the files of role ``preprocess`` and ``postprocess``.
    """

    model_interface: Interface
    preprocess: str | None = Field(
        default=None, max_length=64, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", description="a function"
    )
    postprocess: str | None = Field(
        default=None, max_length=64, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", description="a function"
    )

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        if self.preprocess is None and self.postprocess is None:
            raise ValueError("a pipeline has a preprocess or a postprocess function")
        return self

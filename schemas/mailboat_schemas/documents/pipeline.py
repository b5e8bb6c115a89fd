"""What stands before and behind a model: Python of the release's own, run in the worker."""

from collections.abc import Sequence
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

    def problem_with(self, interface: Interface) -> str | None:
        """Where callers would see another side of the model than the pipeline gives them.

        ``interface`` is the release's. A side without a function is the model's own.
        """
        if self.preprocess is None and interface.inputs != self.model_interface.inputs:
            return "without a preprocess function the inputs are those of model_interface"
        if self.postprocess is None and interface.outputs != self.model_interface.outputs:
            return "without a postprocess function the outputs are those of model_interface"
        return None


def problem_with_code(pipeline: Pipeline | None, roles: Sequence[str]) -> str | None:
    """Where the functions that are named and the files of a variant, by role, do not agree."""
    named = {
        "preprocess": None if pipeline is None else pipeline.preprocess,
        "postprocess": None if pipeline is None else pipeline.postprocess,
    }
    for role, function in named.items():
        if roles.count(role) != (0 if function is None else 1):
            return f"a function pipeline.{role} and one file of role {role!r} belong together"
    if roles.count("check") > 1:
        return "a variant has at most one file of role 'check'"
    return None

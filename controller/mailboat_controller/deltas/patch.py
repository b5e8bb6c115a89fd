"""What building a patch comes to."""

from dataclasses import dataclass

from mailboat_schemas.errors import OperatorNeeded


class NotToBePatched(OperatorNeeded):
    """This format cannot bring this target, or not from this base."""

    code = "E-DELTA-UNFIT"

    def __init__(self, problem: str) -> None:
        super().__init__(
            f"No patch can be built: {problem}.",
            next_step="nothing; devices fetch the file whole.",
        )


@dataclass(frozen=True, slots=True)
class Patch:
    content: bytes
    memory_bytes: int  # peak of applying it, above a bare process

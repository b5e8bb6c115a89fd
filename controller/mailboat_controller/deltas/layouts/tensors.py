"""What a parser finds."""

from dataclasses import dataclass

from mailboat_schemas.tensor_program import Kind


class Unreadable(ValueError):
    """Not a file of this format, or a broken one."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """``length`` bytes at ``offset``, a multiple of the kind's width. No two have the same name."""

    name: str
    kind: Kind
    offset: int
    length: int


class Names:
    """Makes them different: the second one of a name gets a number."""

    def __init__(self) -> None:
        self._count: dict[str, int] = {}

    def take(self, name: str) -> str:
        number = self._count.get(name, 0)
        self._count[name] = number + 1
        return f"{name}#{number}" if number else name


def tensor(name: str, kind: Kind, offset: int, length: int) -> Tensor:
    """A length that is no whole number of numbers is cut; the rest is like any other bytes."""
    return Tensor(name, kind, offset, length // kind.width * kind.width)

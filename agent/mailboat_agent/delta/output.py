"""Where a decoder puts what it makes."""

import os
from collections.abc import Callable

Write = Callable[[bytes | memoryview], None]


def to_descriptor(descriptor: int) -> Write:
    """All of it, however little the pipe takes at once."""

    def write(content: bytes | memoryview) -> None:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(descriptor, rest) :]

    return write

"""Standard streams as every command may count on them, however it was started."""

import io
import os
import sys
from typing import TextIO, cast

_FLAGS = {"stdin": os.O_RDONLY, "stdout": os.O_WRONLY, "stderr": os.O_WRONLY}


def prepare() -> None:
    """Put the null device where a stream is closed, and let a narrow encoding stop no answer.

    Without it the next file or socket that is opened takes the number of the closed stream, and
    what is printed to a missing standard error comes out on standard output.
    """
    for number, (name, flags) in enumerate(_FLAGS.items()):
        if getattr(sys, name) is None:
            setattr(sys, name, _null_device(number, flags))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal of Latin-1 has no ▶; a `?` in its place is better than no answer.
            stream.reconfigure(errors="replace")


def _null_device(number: int, flags: int) -> TextIO:
    opened = os.open(os.devnull, flags)
    if opened != number:
        os.dup2(opened, number)
        os.close(opened)
    return cast("TextIO", os.fdopen(number, "r" if flags == os.O_RDONLY else "w"))

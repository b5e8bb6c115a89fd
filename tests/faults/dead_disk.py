"""A disk that lets itself be read and refuses every change, SQLite's as well."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults.injection import Fault, Injection, injected


@contextmanager
def refusing(directory: Path) -> Iterator[None]:
    with injected(Injection(directory, 0, Fault.EROFS)):
        yield

"""A progress bar on a terminal, on standard error; nothing in a pipe."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

MANY_DEVICES = 20  # below, it is over before a bar says anything
Advance = Callable[[int], None]  # bytes, or rows, done since the last call


@contextmanager
def progress(
    label: str,
    *,
    shown: bool,
    total_bytes: int | None = None,
    total_rows: int | None = None,
    of: str = "rows",
) -> Iterator[Advance]:
    """
    Args:
        total_rows: these are counted, not bytes; ``of`` says what they are.
    """
    if not shown or not sys.stderr.isatty():
        yield lambda _count: None
        return
    from rich.console import Console  # slow to import, and pipes do not need it
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        TextColumn,
        TransferSpeedColumn,
    )

    counted: tuple[ProgressColumn, ...] = (DownloadColumn(), TransferSpeedColumn())
    if total_rows is not None:
        counted = (MofNCompleteColumn(), TextColumn(of))
    columns = (TextColumn("{task.description}"), BarColumn(), *counted)
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total_rows if total_bytes is None else total_bytes)
        yield lambda count: bar.advance(task, count)


def in_turn(names: Sequence[str], label: str, *, shown: bool) -> Iterator[str]:
    """Devices one after the other, with a bar when they are many."""
    many = len(names) >= MANY_DEVICES
    with progress(label, shown=shown and many, total_rows=len(names), of="devices") as advance:
        for name in names:
            yield name
            advance(1)

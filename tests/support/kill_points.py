"""Power fails between two system calls: an action is run in a child that dies before the n-th one.

Dying keeps what the page cache holds, so this finds wrong order and half-done work. Whether each
thing was synced before the next is told by `recorded_calls`.
"""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

CALLS = ("open", "write", "fsync", "fchmod", "replace", "rename", "unlink", "mkdir", "ftruncate")
POINTS_MAX = 500
KILLED = 77


def count_calls(monkeypatch: pytest.MonkeyPatch, at: int, then: Callable[[], None]) -> None:
    """From now on, ``then`` happens before the ``at``-th call (from 0) of those that touch disk."""
    seen = 0

    def counting(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal seen
            seen += 1
            if seen - 1 == at:
                then()
            return real(*args, **kwargs)

        return call

    for name in CALLS:
        monkeypatch.setattr(os, name, counting(getattr(os, name)))


def recorded_calls(monkeypatch: pytest.MonkeyPatch, below: Path) -> list[str]:
    """What happens to disk from now on, in order: such as ``fsync store`` or ``rename a -> b``.

    A power cut loses what was not synced, which no killed process can show; the order can.
    """
    done: list[str] = []

    def place(path: Any) -> str:
        if isinstance(path, int):
            path = Path(f"/proc/self/fd/{path}").readlink()
        return str(Path(path).relative_to(below))

    def recording(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            both = name == "rename"
            done.append(f"{name} {place(args[0])}" + (f" -> {place(args[1])}" if both else ""))
            return real(*args)

        return call

    for call, name in (("fsync", "fsync"), ("replace", "rename"), ("rename", "rename")):
        monkeypatch.setattr(os, call, recording(name, getattr(os, call)))
    return done


def killed_at_each_point(
    tmp_path: Path,
    prepare: Callable[[Path], object],
    action: Callable[[Path], object],
    *,
    step: int = 1,
) -> Iterator[Path]:
    """A prepared directory per point, after the action was killed there; the last one is whole.

    ``step`` above 1 takes only every so many points, where each is slow.
    """
    for point in range(0, POINTS_MAX, step):
        directory = tmp_path / f"killed-at-{point}"
        directory.mkdir()
        prepare(directory)
        child = os.fork()
        if child == 0:
            try:
                count_calls(pytest.MonkeyPatch(), point, lambda: os._exit(KILLED))
                action(directory)
            except BaseException:  # noqa: BLE001 - the child must never return into pytest
                os._exit(1)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in (0, KILLED), f"the action failed at point {point}"
        yield directory
        if status == 0:
            assert point > 0, "the action touched no disk"
            return
    raise AssertionError(f"not finished after {POINTS_MAX} calls")


def refused_at_each_point(
    tmp_path: Path,
    prepare: Callable[[Path], object],
    action: Callable[[Path], object],
    *,
    error: int,
    expected: tuple[type[Exception], ...],
    step: int = 1,
) -> Iterator[Path]:
    """Likewise, but the n-th call fails once with ``error``; only ``expected`` may come out."""
    for point in range(0, POINTS_MAX, step):
        directory = tmp_path / f"{errno.errorcode[error]}-at-{point}"
        directory.mkdir()
        prepare(directory)
        reached = False

        def refuse() -> None:
            nonlocal reached
            reached = True
            raise OSError(error, os.strerror(error))

        with pytest.MonkeyPatch.context() as monkeypatch, suppress(*expected):
            count_calls(monkeypatch, point, refuse)
            action(directory)
        yield directory
        if not reached:
            return
    raise AssertionError(f"not finished after {POINTS_MAX} calls")

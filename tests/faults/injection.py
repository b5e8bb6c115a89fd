"""What happens at the n-th thing that a process does to one directory.

Every Python call that changes a file below the directory is counted, and so is every statement of
SQLite (whose own calls are of C: harness B sees those). At the chosen one, the process dies before
it, in the middle of it, or after it, or the disk refuses: once, or from there on.
"""

import errno
import io
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any
from unittest.mock import patch

from mailboat_agent.journal import database

KILLED = 77

BY_PATH = ("mkdir", "unlink", "rmdir", "replace", "rename", "link", "symlink", "truncate", "chmod")
BY_DESCRIPTOR = ("write", "pwrite", "fsync", "fdatasync", "ftruncate", "fchmod")
NEEDS_SPACE = frozenset({"mkdir", "write", "pwrite", "open", "sql", "link", "symlink"})
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_readlink, _fspath, _exit, _write, _pwrite = (
    os.readlink,
    os.fspath,
    os._exit,
    os.write,
    os.pwrite,
)


class Fault(StrEnum):
    KILL_BEFORE = "killed before it"
    KILL_WITHIN = "killed within it"
    KILL_AFTER = "killed after it"
    EIO = "EIO once"
    ENOSPC = "ENOSPC from it on"
    EROFS = "EROFS from it on"


ERRNO = {Fault.EIO: errno.EIO, Fault.ENOSPC: errno.ENOSPC, Fault.EROFS: errno.EROFS}
SQLITE_SAYS = {
    Fault.EIO: "SQLITE_IOERR_WRITE",
    Fault.ENOSPC: "SQLITE_FULL",
    Fault.EROFS: "SQLITE_READONLY",
}


class Injection:
    """Counts from 0. ``names`` are of what was counted, in order."""

    def __init__(self, directory: Path, at: int, fault: Fault) -> None:
        self._below = str(directory) + os.sep
        self._directory = str(directory)
        self.at = at
        self.fault = fault
        self.names: list[str] = []

    @property
    def reached(self) -> bool:
        return len(self.names) > self.at >= 0

    def is_ours(self, target: Any, keywords: dict[str, Any]) -> bool:
        if isinstance(target, int):
            try:
                path = _readlink(f"/proc/self/fd/{target}")
            except OSError:
                return False
        elif keywords.get("dir_fd") is not None:
            return self.is_ours(keywords["dir_fd"], {})
        else:
            path = _fspath(target)
            path = path.decode() if isinstance(path, bytes) else path
        return path.startswith(self._below) or path == self._directory

    def around(self, name: str, real: Callable[[], Any], half: Callable[[], Any] | None) -> Any:
        """Do it, unless this is the point."""
        number = len(self.names)
        self.names.append(name)
        if number == self.at:
            match self.fault:
                case Fault.KILL_BEFORE:
                    _exit(KILLED)
                case Fault.KILL_WITHIN:
                    if half is not None:
                        half()
                    _exit(KILLED)
                case Fault.KILL_AFTER:
                    real()
                    _exit(KILLED)
                case Fault.EIO | Fault.ENOSPC | Fault.EROFS:
                    pass
        if self.refuses(name, number):
            raise OSError(ERRNO[self.fault], os.strerror(ERRNO[self.fault]))
        return real()

    def refuses(self, name: str, number: int) -> bool:
        if self.at < 0 or number < self.at or self.fault not in ERRNO:
            return False
        if self.fault is Fault.EIO:
            return number == self.at
        if self.fault is Fault.ENOSPC:
            return name in NEEDS_SPACE
        return name not in ("fsync", "fdatasync")  # nothing to write, nothing to refuse


@contextmanager
def injected(injection: Injection) -> Iterator[None]:
    """From here on, whatever thread does it."""
    patches = [patch.object(os, name, _counting(name, injection)) for name in BY_PATH]
    patches += [patch.object(os, name, _counting(name, injection)) for name in BY_DESCRIPTOR]
    patches += [
        patch.object(os, "open", _opening(injection)),
        patch.object(io, "open", _io_opening(injection)),
        patch.object(database.sqlite3, "connect", _connecting(injection)),
    ]
    for each in patches:
        each.start()
    try:
        yield
    finally:
        for each in reversed(patches):
            each.stop()


def _counting(name: str, injection: Injection) -> Callable[..., Any]:
    real = getattr(os, name)
    halves = {"write": _write, "pwrite": _pwrite}

    def call(target: Any, *args: Any, **keywords: Any) -> Any:
        if not injection.is_ours(target, keywords):
            return real(target, *args, **keywords)
        half = None
        if name in halves:
            content = memoryview(args[0])[: len(args[0]) // 2]
            half = lambda: halves[name](target, content, *args[1:])  # noqa: E731
        return injection.around(name, lambda: real(target, *args, **keywords), half)

    return call


def _opening(injection: Injection) -> Callable[..., Any]:
    real = os.open

    def call(path: Any, flags: int, *args: Any, **keywords: Any) -> Any:
        if not flags & WRITING or not injection.is_ours(path, keywords):
            return real(path, flags, *args, **keywords)
        return injection.around("open", lambda: real(path, flags, *args, **keywords), None)

    return call


def _io_opening(injection: Injection) -> Callable[..., Any]:
    real = io.open

    def call(path: Any, mode: str = "r", *args: Any, **keywords: Any) -> Any:
        if not set(mode) & set("wax+") or not injection.is_ours(path, {}):
            return real(path, mode, *args, **keywords)
        return injection.around("open", lambda: real(path, mode, *args, **keywords), None)

    return call


class InjectedConnection(sqlite3.Connection):
    """Each statement of it is counted, begin and commit too."""

    injection: Injection

    def execute(self, sql: str, *args: Any) -> Any:
        number = len(self.injection.names)
        if sql.lstrip().upper().startswith(("SELECT", "PRAGMA")):
            return super().execute(sql, *args)
        try:
            return self.injection.around(
                "sql", lambda: super(type(self), self).execute(sql, *args), None
            )
        except OSError as error:
            raise _sqlite_error(self.injection.fault, number) from error

    def watch(self, statement: str) -> None:
        """Called by SQLite as it begins a statement: the only one not seen above is the commit."""
        if statement == "COMMIT" and self.injection.fault not in ERRNO:
            self.injection.around("sql", lambda: None, None)


def _sqlite_error(fault: Fault, number: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError(f"injected at {number}")
    error.sqlite_errorname = SQLITE_SAYS[fault]
    error.sqlite_errorcode = 0
    return error


def _connecting(injection: Injection) -> Callable[..., Any]:
    real = sqlite3.connect

    def connect(path: Any, *args: Any, **keywords: Any) -> Any:
        if not injection.is_ours(path, {}):
            return real(path, *args, **keywords)

        def make() -> Any:
            connection = real(path, *args, factory=InjectedConnection, **keywords)
            connection.injection = injection
            connection.set_trace_callback(connection.watch)
            return connection

        try:
            return injection.around("sql", make, None)
        except OSError as error:
            raise _sqlite_error(injection.fault, 0) from error

    return connect

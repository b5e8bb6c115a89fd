"""The SQLite file under the journal: opened, asked in transactions, set aside when it is damaged.

The only module of the agent that imports sqlite3. WAL with synchronous=FULL: what a transaction
wrote survives a power cut once it has returned (with NORMAL, acknowledged rows get lost).
"""

import os
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from mailboat_agent.atomic_file import (
    DiskFailing,
    clear_the_way,
    disk_errors,
    fsync_directory,
)
from mailboat_agent.ballast import give_up_ballast
from mailboat_schemas.errors import DiskFull

DAMAGED_KEPT_MAX = 2  # journals set aside; older ones are deleted
BUSY_SECONDS_MAX = 5.0  # somebody inspects the journal with another program
# Somebody who keeps it locked is waited for once, not at every look: what serves has to begin.
BUSY_AGAIN_SECONDS_MAX = 0.05
# A short WAL that is overwritten again and again: on a full disk, what room is left (the ballast)
# goes to rows, not to copies of pages.
WAL_PAGES_MAX = 64
WAL_BYTES_KEPT_MAX = 512 * 1024
CACHE_KIB_MAX = 512  # of pages in memory: what one look at a full buffer needs
LOOK_STEPS = 10_000  # of SQLite's machine, from one look at the time to the next: below 1 ms

Connection = sqlite3.Connection
Result = TypeVar("Result")

_OF_THE_DISK = ("SQLITE_IOERR", "SQLITE_CANTOPEN")
_LOCKED = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_PROTOCOL")
_WITH_FILES = ("-wal", "-shm", "")
# The file cannot be read, or contradicts itself or its schema.
_DAMAGE = frozenset(
    {"SQLITE_NOTADB", "SQLITE_ERROR", "SQLITE_IOERR_READ", "SQLITE_IOERR_SHORT_READ"}
    | {"SQLITE_IOERR_CORRUPTFS", "SQLITE_IOERR_DATA", "SQLITE_TOOBIG", "SQLITE_MISMATCH"}
)
_DAMAGE_OF_ANY_KIND = ("SQLITE_CORRUPT", "SQLITE_CONSTRAINT", "SQLITE_FORMAT", "SQLITE_SCHEMA")


class Damaged(Exception):
    """The database contradicts itself. Inside an operation: set it aside and begin anew."""


class JournalDatabase:
    """``begin`` makes the tables of a new database; ``resume`` reads what an old one says of itself
    and raises `Damaged` where it does not hold."""

    def __init__(
        self,
        path: Path,
        *,
        begin: Callable[[Connection], None],
        resume: Callable[[Connection], None],
    ) -> None:
        self._path = path
        self._begin = begin
        self._resume = resume
        self._lock = threading.RLock()
        self._connection: Connection | None = None
        self.was_lost = False  # a damaged database was set aside since the start
        self.is_new = False  # since the start, one was begun
        self._file: tuple[int, int] | None = None  # device and inode of what is open
        self._patience_seconds = BUSY_SECONDS_MAX

    def run(
        self, operation: Callable[[Connection], Result], *, worth_the_ballast: bool = True
    ) -> Result:
        """One durable transaction, all or nothing; repeated once after a full disk or damage.

        Raises:
            DiskFull: also after the ballast was given up, if it is worth that.
            DiskFailing: the disk or a lock refuses.
        """
        with self._lock:
            try:
                return self._transact(operation)
            except DiskFull:
                if not worth_the_ballast:
                    raise
                give_up_ballast(self._path.parent)
            except Damaged:
                self._set_aside()
            try:
                return self._transact(operation)
            except Damaged as error:
                raise DiskFailing(
                    f"A new journal is damaged at once: {error}.",
                    next_step="replace the disk; what serves goes on, but nothing is reported.",
                ) from error

    def check(self) -> None:
        """Look at every page, as at the start. A damaged database is set aside.

        Raises:
            DiskFull, DiskFailing
        """

        def look(connection: Connection) -> None:
            if self._identity() != self._file:
                raise Damaged("another file, or none, has taken its name")
            (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise Damaged(verdict)

        self.run(look)

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _transact(self, operation: Callable[[Connection], Result]) -> Result:
        try:
            if self._connection is None:
                self._connection = self._open()
            with self._connection as connection:
                connection.execute("BEGIN IMMEDIATE")
                result = operation(connection)
            self._be_patient(BUSY_SECONDS_MAX)
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorname", "").startswith(_LOCKED):
                self._be_patient(BUSY_AGAIN_SECONDS_MAX)
            raise self._meaning_of(error) from error
        except UnicodeDecodeError as error:  # SQLite quotes a damaged schema in what it says
            raise Damaged(str(error)) from error
        return result

    def _be_patient(self, seconds: float) -> None:
        if seconds != self._patience_seconds:
            self._patience_seconds = seconds
            if self._connection is not None:
                self._connection.execute(f"PRAGMA busy_timeout = {int(seconds * 1000)}")

    def _open(self) -> Connection:
        with disk_errors("opening the journal"):
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._make_usable()
        connection = sqlite3.connect(
            self._path,
            isolation_level=None,
            check_same_thread=False,
            timeout=self._patience_seconds,
        )
        try:
            # A damaged text shall not make its whole row unreadable: the row's hash finds it.
            connection.text_factory = lambda content: content.decode(errors="replace")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA wal_autocheckpoint = {WAL_PAGES_MAX}")
            connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES_KEPT_MAX}")
            connection.execute(f"PRAGMA cache_size = -{CACHE_KIB_MAX}")
            self._check_or_begin(connection)
        except BaseException:
            connection.close()
            raise
        self._file = self._identity()
        return connection

    def _make_usable(self) -> None:
        """Directories in the place of its files are moved aside; so is a file that we may not
        write and may not make writable. Raises OSError."""
        for suffix in _WITH_FILES:
            path = self._path.with_name(self._path.name + suffix)
            self.was_lost |= path.is_dir()
            clear_the_way(path)
            if path.exists() and not os.access(path, os.R_OK | os.W_OK):
                try:
                    path.chmod(0o600)
                except PermissionError:
                    self._set_aside()
                    return

    def _identity(self) -> tuple[int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def _check_or_begin(self, connection: Connection) -> None:
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables:
            (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise Damaged(verdict)
        else:
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                self._begin(connection)
            self.is_new = True
            with disk_errors("beginning the journal"):
                fsync_directory(self._path.parent)
        self._resume(connection)

    def _meaning_of(self, error: sqlite3.Error) -> Exception:
        name = getattr(error, "sqlite_errorname", "")
        if name in _DAMAGE or name.startswith(_DAMAGE_OF_ANY_KIND):
            return Damaged(str(error))
        if name == "SQLITE_READONLY" and self._is_writable():
            return Damaged(f"{error}: by its own header")
        if name == "SQLITE_FULL" or (name.startswith(_OF_THE_DISK) and self._no_space()):
            return DiskFull(
                "The disk is full: the journal cannot grow.",
                next_step="free space in the data directory's file system; what serves goes on.",
            )
        if not name:
            return error  # not of SQLite but of how it is called
        return DiskFailing(
            f"The journal cannot be used: {error} ({name}).",
            next_step="look at the kernel log, the mount options and who else has it open.",
        )

    def _is_writable(self) -> bool:
        try:
            os.close(os.open(self._path, os.O_RDWR | os.O_CLOEXEC))
        except OSError:
            return False
        return True

    def _no_space(self) -> bool:
        # Opening needs two more files; SQLite then says that it cannot, but not why.
        with suppress(OSError):
            probe = self._path.with_name(self._path.name + ".probe")
            try:
                probe.write_bytes(bytes(4096))
            finally:
                probe.unlink(missing_ok=True)
            return False
        return True

    def _set_aside(self) -> None:
        """The WAL goes along, and first: it must never be played into the database that follows."""
        self.close()
        prefix = self._path.name + ".damaged-"
        endings = [path.name.removeprefix(prefix) for path in self._path.parent.glob(prefix + "*")]
        numbers = sorted(int(ending) for ending in endings if ending.isdecimal())
        numbers.append(numbers[-1] + 1 if numbers else 1)
        with disk_errors("setting a damaged journal aside"):
            for suffix in _WITH_FILES:
                with suppress(FileNotFoundError):
                    source = self._path.with_name(self._path.name + suffix)
                    source.replace(self._path.with_name(f"{prefix}{numbers[-1]}{suffix}"))
            for number in numbers[:-DAMAGED_KEPT_MAX]:
                for suffix in _WITH_FILES:
                    self._path.with_name(f"{prefix}{number}{suffix}").unlink(missing_ok=True)
            fsync_directory(self._path.parent)
        self.was_lost = True


SQLITE_ERRORS = (sqlite3.Error, sqlite3.Warning)


def open_to_look(path: Path, seconds_max: float, value_bytes_max: int) -> Connection:
    """For one answer to a person, beside an agent that writes: nothing can be changed through it.

    After ``seconds_max`` what is still being asked is interrupted, and no value it makes is larger
    than ``value_bytes_max``. Raises `SQLITE_ERRORS`.
    """
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=1, isolation_level=None
    )
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, value_bytes_max)
    connection.execute("PRAGMA query_only = ON")
    until = time.monotonic() + seconds_max
    connection.set_progress_handler(lambda: time.monotonic() > until, LOOK_STEPS)
    connection.set_authorizer(_read_only_of_this_file)
    return connection


def _read_only_of_this_file(action: int, *_: object) -> int:
    return sqlite3.SQLITE_DENY if action == sqlite3.SQLITE_ATTACH else sqlite3.SQLITE_OK


def quick_check(path: Path) -> str | None:
    """What SQLite itself finds wrong with the file, changing nothing; None when all is well."""
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=1)
        try:
            (answer,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        finally:
            connection.close()
    except sqlite3.Error as error:
        return str(error)
    return None if answer == "ok" else str(answer)

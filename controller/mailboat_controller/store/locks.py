"""Locks in the database: who may write now, write the audit chain, thin old rows; who leads.

On SQLite one writer at a time is all there is, and who leads is a lock on a file beside the
database. On PostgreSQL they are advisory locks; those of a session end with its connection, so a
process that is killed holds nothing back.
"""

import contextlib
import fcntl
import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

from mailboat_schemas.errors import Transient

# "mailboat" in ASCII; the locks that sessions hold have numbers of their own behind it.
WRITER_KEY = 0x6D61696C626F6174
AUDIT_KEY = WRITER_KEY + 1
RETENTION_KEY = WRITER_KEY + 2
LEADER = "leader"
_SESSION_KEYS_FROM = WRITER_KEY + 100


# How PostgreSQL lists an advisory lock with a key of 64 bits: `pg_locks` in its manual.
_IS_OURS = text(
    "SELECT EXISTS (SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 "
    "AND pid = pg_backend_pid() AND granted AND classid = :high AND objid = :low)"
)


class LockLost(Transient):
    """The connection that held a lock of ours is gone: somebody else may hold it by now."""

    code = "E-LOCK-LOST"


def hold_until_commit(tx: Connection, key: int) -> None:
    """Wait for a lock that this transaction then keeps to its end. SQLite's writer has it anyway.

    Waiting is bounded by the connection's ``lock_timeout``.
    """
    if tx.dialect.name == "postgresql":
        tx.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})


def partition_lock(partition: int) -> str:
    """The name of the lock that says who takes in the messages of one partition of the devices."""
    return f"ingest-{partition}"


class HeldLock:
    """A lock that this process holds until `release`, or until it ends in whatever way."""

    def __init__(self, name: str, *, connection: Connection | None, file: int | None) -> None:
        self.name = name
        self._connection = connection
        self._file = file
        self._one_at_a_time = threading.Lock()

    def check(self) -> None:
        """
        Raises:
            LockLost: it is not ours any more.
        """
        with self._one_at_a_time:
            if self._connection is None:
                return
            try:
                ours = self._connection.execute(_IS_OURS, _halves(_session_key(self.name)))
                if ours.scalar_one():
                    return
            except SQLAlchemyError as error:
                raise self._lost("the connection to the database that held it is gone") from error
            raise self._lost(
                "our connection to the database does not hold it (a pooler between us and the "
                "server must keep one session for each connection)"
            )

    def _lost(self, because: str) -> LockLost:
        return LockLost(
            f"The lock {self.name!r} is not ours any more: {because}.",
            next_step="nothing; start the program again (a supervisor does): whoever gets "
            "the lock goes on from what is in the database.",
        )

    def release(self) -> None:
        with self._one_at_a_time:
            if self._connection is not None:
                # At once where we can; the end of the connection does it in any case.
                with contextlib.suppress(SQLAlchemyError):
                    self._connection.execute(text("SELECT pg_advisory_unlock_all()"))
                # Back in the pool it might hold the lock on.
                self._connection.invalidate()
                self._connection.close()
                self._connection = None
            if self._file is not None:
                os.close(self._file)
                self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


def try_hold(engine: Engine, name: str) -> HeldLock | None:
    """Take a lock for this process; None while another one has it."""
    if engine.dialect.name == "postgresql":
        return _try_session(engine, name)
    path = Path(f"{engine.url.database}.{name}.lock")
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    except BaseException:
        os.close(file)
        raise
    return HeldLock(name, connection=None, file=file)


def _try_session(engine: Engine, name: str) -> HeldLock | None:
    connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    try:
        taken = connection.execute(
            text("SELECT pg_try_advisory_lock(:key)"), {"key": _session_key(name)}
        ).scalar_one()
    except BaseException:
        connection.close()
        raise
    if not taken:
        connection.close()
        return None
    return HeldLock(name, connection=connection, file=None)


def _session_key(name: str) -> int:
    if name == LEADER:
        return _SESSION_KEYS_FROM
    return _SESSION_KEYS_FROM + 1 + int(name.rpartition("-")[2])


def _halves(key: int) -> dict[str, int]:
    return {"high": key >> 32, "low": key & 0xFFFFFFFF}

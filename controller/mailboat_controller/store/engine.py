"""The database: opening it, migrating it, and the two ways to use it.

`Store.transaction` lets one writer in at a time; `Store.read` never waits for it (WAL on SQLite,
MVCC on PostgreSQL). `Store.device_transaction` is for what devices tell: on PostgreSQL several run
beside each other and beside the one writer. Rows are read and written by plain functions in the
modules beside this one, each taking the `Connection` first.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from mailboat_controller.store import all_tables, compiled_once, database_url, idempotency, locks
from mailboat_controller.store.locks import HeldLock
from mailboat_schemas.errors import (
    ConfigurationInvalid,
    DiskFull,
    OperatorNeeded,
    ServerUnavailable,
)

BUSY_TIMEOUT_SECONDS = 10  # another process (the command line on the same file) may be writing
# FastAPI runs plain handlers on 40 threads; a read that finds no connection waits, then gives up.
CONNECTIONS_MAX = 40
CONNECTION_WAIT_SECONDS = 15
MIGRATIONS = Path(__file__).parent / "migrations"
_WRITES = "mailboat_writes"
# How long PostgreSQL lets one of us wait for another; a large fleet's decisions take seconds.
LOCK_WAIT_SECONDS = 30
CONNECT_SECONDS_MAX = 10
# A server or network that is gone without a word is noticed after so long.
SILENCE_SECONDS_MAX = 30
# PostgreSQL's words for what passes: no connection, shutting down, too much of everything, a
# deadlock or a lock that was not given in time, a standby that is to take over.
_PASSING_STATES = ("08", "40", "53", "57", "55P03", "25006")
_DISK_FULL_STATE = "53100"


class Store:
    """One open database. Safe to use from many threads."""

    def __init__(self, url: str) -> None:
        """
        Args:
            url: ``sqlite:////absolute/path`` or ``postgresql+psycopg://…``.

        Raises:
            ConfigurationInvalid: the URL is neither, or its driver is not installed.
        """
        self._engine = _open(url)
        self._writer = threading.Lock()

    @property
    def is_sqlite(self) -> bool:
        return self._engine.dialect.name == "sqlite"

    def migrate(self) -> None:
        """Bring the schema to this program's version; does nothing when it is there already.

        Raises:
            DatabaseUnusable: a newer Mailboat has brought it further.
        """
        with self.transaction() as tx:
            held = _version(tx)
            if held == all_tables.SCHEMA_VERSION:
                return  # without Alembic, which takes as long to load as a tenth of a start
            if held is not None and held not in known_versions():
                raise _newer(held)
            if (MIGRATIONS / "env.py").is_file():
                _upgrade(tx)
            else:
                all_tables.metadata.create_all(tx)

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """One write transaction: committed when the block ends, rolled back when it raises.

        Durable once the block has been left (``synchronous=FULL``). Writers take turns, so a block
        may read, decide and write without another writer in between. Never nest two.

        Raises:
            ServerUnavailable: another process held the database for too long.
            DiskFull: nothing of this transaction is kept.
        """
        with self._writer, self._writing() as connection:
            locks.hold_until_commit(connection, locks.WRITER_KEY)
            yield connection

    @contextmanager
    def device_transaction(self) -> Iterator[Connection]:
        """One write transaction about what devices tell of themselves. On SQLite the same as
        `transaction`; on PostgreSQL it waits for nobody but those who touch the same devices.

        So a block in it begins with `devices.lock`, adds to what others may add to as well with
        one statement alone, and reads nothing twice that must not have changed between. The audit
        chain has a lock of its own.

        Raises:
            ServerUnavailable, DiskFull: as `transaction`.
        """
        if self.is_sqlite:
            with self.transaction() as connection:
                yield connection
        else:
            with self._writing() as connection:
                yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with _translated(), self._engine.connect() as connection:
            connection.execution_options(**{_WRITES: True})
            if not self.is_sqlite:
                # One view for the whole transaction would be one from before the lock was given,
                # without what the writer before us has committed.
                connection.execution_options(isolation_level="READ COMMITTED")
            with connection.begin():
                yield connection
                idempotency.note_written(connection)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A consistent view; never waits for a writer, sees nothing uncommitted."""
        with _translated(), self._engine.connect() as connection, connection.begin():
            yield connection

    def try_hold(self, name: str) -> HeldLock | None:
        """Take a lock for as long as this process lives; None while another one has it.

        Raises:
            ServerUnavailable: the database does not answer.
        """
        with _translated():
            return locks.try_hold(self._engine, name)

    def is_migrated(self) -> bool:
        """Whether the schema is that of this program, without changing it.

        Raises:
            ServerUnavailable: the database does not answer.
        """
        with self.read() as tx:
            return _version(tx) == all_tables.SCHEMA_VERSION

    def ping(self) -> None:
        """
        Raises:
            ServerUnavailable: the database does not answer.
        """
        with self.read() as tx:
            tx.execute(text("SELECT 1"))

    def checkpoint(self) -> None:
        """On SQLite: everything into the one file, so that it can be copied by itself."""
        if self.is_sqlite:
            with _translated(), self._engine.connect() as connection:
                connection.connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        self._engine.dispose()


def _open(url: str) -> Engine:
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
        if backend == "sqlite" and parsed.database not in {None, "", ":memory:"}:
            Path(str(parsed.database)).parent.mkdir(parents=True, exist_ok=True)
            engine = create_engine(
                compiled_once.sqlite_url(parsed),
                connect_args={"timeout": BUSY_TIMEOUT_SECONDS, "check_same_thread": False},
                pool_size=CONNECTIONS_MAX,
                max_overflow=0,
                pool_timeout=CONNECTION_WAIT_SECONDS,
            )
            event.listen(engine, "connect", _prepare_sqlite)
            event.listen(engine, "begin", _begin_sqlite)
            return compiled_once.share(engine)
        if backend == "postgresql":
            return create_engine(
                parsed,
                pool_size=CONNECTIONS_MAX,
                max_overflow=0,
                pool_timeout=CONNECTION_WAIT_SECONDS,
                pool_pre_ping=True,
                isolation_level="REPEATABLE READ",  # a read is one view; see `_writing`
                connect_args={
                    "connect_timeout": CONNECT_SECONDS_MAX,
                    "keepalives_idle": SILENCE_SECONDS_MAX // 3,
                    "keepalives_interval": SILENCE_SECONDS_MAX // 3,
                    "keepalives_count": 2,
                    "tcp_user_timeout": SILENCE_SECONDS_MAX * 1000,
                    # Never told before it is on the server's disk, whatever the server's default.
                    "options": f"-c lock_timeout={LOCK_WAIT_SECONDS}s -c synchronous_commit=on",
                },
            )
    except ValueError as error:
        raise database_url.unreadable() from error
    except (ArgumentError, ImportError) as error:
        raise database_url.unusable(str(error)) from error
    raise ConfigurationInvalid(
        f"The database {backend!r} is not supported, nor is one that lives in memory.",
        next_step="write database_url as sqlite:////absolute/path or postgresql+psycopg://….",
    )


def _prepare_sqlite(connection: Any, _record: object) -> None:
    # The driver would begin transactions by itself, late and never IMMEDIATE: see _begin_sqlite.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    # WAL's default (NORMAL) may lose the newest commits in a power cut, after we acknowledged them.
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # A deferred transaction that turns into a writer fails with "locked" instead of waiting.
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _version(connection: Connection) -> str | None:
    """The migration that the database was brought to; None: to none."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    held: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return held


def _upgrade(connection: Connection) -> None:
    from alembic import command  # only for a database of another version, or a new one
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection  # env.py runs inside this transaction
    command.upgrade(config, "head")


def known_versions() -> frozenset[str]:
    """Every migration that this program knows."""
    from alembic.config import Config  # only for a database or a backup of another version
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    return frozenset(each.revision for each in ScriptDirectory.from_config(config).walk_revisions())


@contextmanager
def _translated() -> Iterator[None]:
    """The database's troubles that pass by themselves, as `Transient`; everything else is a bug."""
    try:
        yield
    except DBAPIError as error:
        problem = str(error.orig)
        state = str(getattr(error.orig, "sqlstate", None) or "")
        if "disk is full" in problem or state == _DISK_FULL_STATE:
            raise DiskFull(
                "The controller's disk is full; nothing of this change was kept.",
                next_step="free space where database_url points; the controller goes on by itself.",
            ) from error
        if state.startswith(_PASSING_STATES) or error.connection_invalidated:
            raise _busy(problem) from error
        _translate_operational(error, problem)
        # SQLite alone: what is there is no database, or not a whole one.
        if "not a database" in problem or "malformed" in problem:
            raise _unusable(problem) from error
        raise
    except PoolTimeout as error:
        raise _busy("all connections are in use") from error


def _translate_operational(error: DBAPIError, problem: str) -> None:
    if not hasattr(error.orig, "sqlite_errorname") and not getattr(error.orig, "sqlstate", None):
        # The server has said nothing: there is none, or none by this name.
        if isinstance(error, OperationalError):
            raise _away(problem) from error
        if isinstance(error, ProgrammingError):
            raise database_url.unusable(problem) from error
    if isinstance(error, OperationalError):
        if "locked" in problem or "connection" in problem:
            raise _busy(problem) from error
        if "unable to open" in problem or "readonly" in problem or "disk I/O" in problem:
            raise _unusable(problem) from error


class DatabaseUnusable(OperatorNeeded):
    code = "E-DATABASE"


def _unusable(problem: str) -> DatabaseUnusable:
    return DatabaseUnusable(
        f"The database cannot be used: {problem}.",
        next_step="look at the file and the rights of its directory where database_url points; if "
        "it is damaged, restore it from a backup: devices send again what it has not seen.",
    )


def _newer(held: str) -> DatabaseUnusable:
    return DatabaseUnusable(
        f"The database was brought to version {held} by a newer Mailboat; this one knows "
        f"{all_tables.SCHEMA_VERSION}, and there is no way back.",
        next_step="install the newer Mailboat again, or restore the backup that was made before.",
    )


def _away(problem: str) -> ServerUnavailable:
    return ServerUnavailable(
        f"The database server does not answer: {' '.join(problem.split())}.",
        next_step="nothing, if it is being started again: it is tried again. If it stays, see that "
        "the server runs, and that database_url names it and a user that it lets in.",
    )


def _busy(problem: str) -> ServerUnavailable:
    return ServerUnavailable(
        f"The database is busy: {problem}.",
        next_step="nothing; it is tried again. If it stays, look for a second controller or a "
        "backup that holds the file.",
    )

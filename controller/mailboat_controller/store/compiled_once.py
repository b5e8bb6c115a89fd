"""What one open database has compiled to SQL, all of this process use.

A command opens the database anew for each of its steps, and the demo runs thirty commands in one
process. SQLAlchemy keeps what it compiled with the dialect that it compiled it for, and makes a
dialect for each database that is opened; to compile a statement takes ten times as long as to run
it on SQLite.
"""

from typing import Any

from sqlalchemy import URL, Engine
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.util import LRUCache

STATEMENTS_MAX = 1000  # our store has some hundreds; the oldest are compiled again
_NAME = "sqlite.mailboat"
_compiled: LRUCache[Any, Any] = LRUCache(STATEMENTS_MAX)


class SameDialect(SQLiteDialect_pysqlite):
    """As SQLAlchemy's own. All that are opened here speak the same SQL, so each equals each."""

    supports_statement_cache = True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SameDialect)

    def __hash__(self) -> int:
        return hash(SameDialect)


registry.register(_NAME, __name__, SameDialect.__name__)


def sqlite_url(url: URL) -> URL:
    """The same database, opened with `SameDialect`."""
    return url.set(drivername=_NAME.replace(".", "+"))


def share(engine: Engine) -> Engine:
    """Let it use what others of its kind have compiled."""
    engine.update_execution_options(compiled_cache=_compiled)
    return engine

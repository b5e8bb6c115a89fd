"""One message of a batch, undone alone when the database cannot hold what it says."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, StatementError

from mailboat_schemas.errors import MalformedPayload


@contextmanager
def savepoint(tx: Connection) -> Iterator[None]:
    """Undo the block alone if it raises; the transaction around it goes on.

    Raises:
        MalformedPayload: a value that passed its checks does not fit its column. Troubles of the
            database itself (full disk, lost connection) stay what they are.
    """
    try:
        with tx.begin_nested():
            yield
    except (DataError, IntegrityError, OverflowError, TypeError, ValueError) as error:
        raise _unstorable(error) from error
    except StatementError as error:
        if isinstance(error, DBAPIError):
            raise
        raise _unstorable(error) from error


def _unstorable(error: Exception) -> MalformedPayload:
    return MalformedPayload(
        f"The database cannot hold this message: {type(error).__name__}: {str(error)[:200]}.",
        next_step="look at the message in the quarantine, and at the version of its sender.",
    )

"""The name by which everything outside this package knows an open transaction."""

from sqlalchemy import Connection as Transaction

__all__ = ["Transaction"]

"""Every table, on one metadata: what a new database gets, and what migrations lead to."""

from mailboat_controller.store import access_tables, content_key_tables, device_tables, tables
from mailboat_controller.store.table_names import metadata

__all__ = ["access_tables", "content_key_tables", "device_tables", "metadata", "tables"]

"""Every table, on one metadata: what a new database gets, and what migrations lead to."""

from mailboat_controller.store import (
    access_tables,
    artifact_life_tables,
    content_key_tables,
    delta_tables,
    device_tables,
    fleet_tables,
    log_tables,
    override_tables,
    site_tables,
    tables,
    trace_tables,
    webhook_tables,
)
from mailboat_controller.store.table_names import metadata

__all__ = [
    "access_tables",
    "artifact_life_tables",
    "content_key_tables",
    "delta_tables",
    "device_tables",
    "fleet_tables",
    "log_tables",
    "metadata",
    "override_tables",
    "site_tables",
    "tables",
    "trace_tables",
    "webhook_tables",
]

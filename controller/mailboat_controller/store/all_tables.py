"""Every table, on one metadata: what a new database gets, and what migrations lead to."""

from mailboat_controller.store import (
    access_tables,
    artifact_life_tables,
    audit_head_tables,
    console_tables,
    content_key_tables,
    delta_tables,
    device_tables,
    drill_tables,
    exit_tables,
    fleet_document_tables,
    fleet_tables,
    gitops_tables,
    idempotency_tables,
    log_tables,
    mlflow_tables,
    override_tables,
    redemption_tables,
    site_tables,
    tables,
    trace_tables,
    webhook_tables,
)
from mailboat_controller.store.table_names import metadata

SCHEMA_VERSION = "0024"  # the newest migration, which makes these tables

__all__ = [
    "SCHEMA_VERSION",
    "access_tables",
    "artifact_life_tables",
    "audit_head_tables",
    "console_tables",
    "content_key_tables",
    "delta_tables",
    "device_tables",
    "drill_tables",
    "exit_tables",
    "fleet_document_tables",
    "fleet_tables",
    "gitops_tables",
    "idempotency_tables",
    "log_tables",
    "metadata",
    "mlflow_tables",
    "override_tables",
    "redemption_tables",
    "site_tables",
    "tables",
    "trace_tables",
    "webhook_tables",
]

"""A hardware class made or changed by somebody, with what it was before in the audit log."""

from datetime import datetime

from mailboat_controller.store import audit, classes
from mailboat_controller.store.transaction import Transaction
from mailboat_schemas.documents.hardware_class import HardwareClass

ACTION = "hardware_class.apply"


def apply_class(
    tx: Transaction, document: HardwareClass, *, actor: str, reason: str, now: datetime
) -> bool:
    """Whether that changed anything."""
    name = document.metadata.name
    before = classes.get(tx, name) if name in classes.names(tx) else None
    if not classes.put(tx, document, now):
        return False
    audit.append(
        tx,
        at=now,
        actor=actor,
        action=ACTION,
        subject=name,
        reason=reason,
        details={"before": _plain(before), "after": _plain(document)},
    )
    return True


def _plain(document: HardwareClass | None) -> dict[str, object] | None:
    return None if document is None else document.model_dump(mode="json", by_alias=True)

"""How far those have come who follow the audit log or the events: webhooks, exported spans."""

from sqlalchemy import Connection, func, select

from mailboat_controller.store import tables
from mailboat_controller.store.upsert import upsert
from mailboat_controller.store.webhook_tables import audit_readers

_audit, _events = tables.audit, tables.events


def reached(tx: Connection, reader: str) -> int | None:
    """The last entry it has dealt with; None: it is new."""
    c = audit_readers.c
    return tx.execute(select(c.sequence).where(c.name == reader)).scalar()


def rows_behind(tx: Connection, of_audit: str, of_events: str) -> int:
    """How much a reader of both has before it; 0 while it is new."""
    marks = [reached(tx, each) for each in (of_audit, of_events)]
    heads = [tx.execute(select(func.max(c))).scalar() for c in (_audit.c.sequence, _events.c.id)]
    pairs = zip(heads, marks, strict=True)
    return sum(max(0, (head or 0) - mark) for head, mark in pairs if mark is not None)


def set_reached(tx: Connection, reader: str, sequence: int) -> None:
    tx.execute(
        upsert(tx, audit_readers)
        .values(name=reader, sequence=sequence)
        .on_conflict_do_update(index_elements=["name"], set_={"sequence": sequence})
    )

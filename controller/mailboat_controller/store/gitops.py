"""Sets of declared documents: what was applied of each, and how the loop that pulls it fares."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select

from mailboat_controller.store.gitops_tables import gitops_documents, gitops_sets
from mailboat_controller.store.instants import from_ms, to_ms
from mailboat_controller.store.upsert import upsert

_INSTANTS = ("applied_at", "pulled_at")


class PullState(StrEnum):
    NONE = ""  # no loop pulls it
    IN_STEP = "in-step"
    DRIFTED = "drifted"  # the fleet differs from the commit
    REFUSED = "refused"  # a commit was not taken: its signature, its history, its content
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True, kw_only=True)
class SetRow:
    name: str
    generation: int = 0
    commit: str = ""
    applied_at: datetime | None = None
    applied_by: str = ""
    repository: str = ""
    branch: str = ""
    pulled_commit: str = ""
    signer: str = ""
    state: PullState = PullState.NONE
    because: str = ""
    differences: int = 0
    pulled_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentRow:
    kind: str
    name: str
    set_name: str
    made: bool
    document: Mapping[str, Any]
    devices: Sequence[str]
    applied_at: datetime


def find_set(tx: Connection, name: str) -> SetRow:
    """A set that was never applied is one of generation 0."""
    row = tx.execute(select(gitops_sets).where(gitops_sets.c.name == name)).first()
    return SetRow(name=name) if row is None else _read_set(row)


def every_set(tx: Connection) -> tuple[SetRow, ...]:
    return tuple(map(_read_set, tx.execute(select(gitops_sets).order_by(gitops_sets.c.name))))


def put_set(tx: Connection, row: SetRow) -> None:
    content: dict[str, Any] = {each.name: getattr(row, each.name) for each in fields(SetRow)}
    content["state"] = str(row.state)
    for name in _INSTANTS:
        content[name] = None if content[name] is None else to_ms(content[name])
    statement = upsert(tx, gitops_sets).values(**content)
    tx.execute(statement.on_conflict_do_update(index_elements=["name"], set_=content))


def documents(tx: Connection) -> Mapping[tuple[str, str], DocumentRow]:
    """Of all sets, by kind and name."""
    rows = map(_read_document, tx.execute(select(gitops_documents)))
    return {(row.kind, row.name): row for row in rows}


def put_document(tx: Connection, row: DocumentRow) -> None:
    remove_document(tx, row.kind, row.name)
    content: dict[str, Any] = {each.name: getattr(row, each.name) for each in fields(DocumentRow)}
    content |= {"applied_at": to_ms(row.applied_at), "devices": list(row.devices)}
    tx.execute(insert(gitops_documents).values(**content))


def remove_document(tx: Connection, kind: str, name: str) -> None:
    c = gitops_documents.c
    tx.execute(delete(gitops_documents).where(c.kind == kind, c.name == name))


def _read_set(row: Row[Any]) -> SetRow:
    content = dict(row._mapping)
    for name in _INSTANTS:
        content[name] = None if content[name] is None else from_ms(content[name])
    return SetRow(**content | {"state": PullState(content["state"])})


def _read_document(row: Row[Any]) -> DocumentRow:
    content = dict(row._mapping)
    return DocumentRow(**content | {"applied_at": from_ms(content["applied_at"])})

"""Hardware classes: the document of each, as an operator last applied it."""

from datetime import datetime

from sqlalchemy import Connection, insert, select, update

from mailboat_controller.store import tables
from mailboat_controller.store.instants import to_ms
from mailboat_schemas.documents.hardware_class import HardwareClass
from mailboat_schemas.errors import NotFound

_classes = tables.hardware_classes


def put(tx: Connection, document: HardwareClass, at: datetime) -> bool:
    """Store a class under its name; says whether that changed anything."""
    name = document.metadata.name
    content = document.model_dump(mode="json", by_alias=True)
    held = tx.execute(select(_classes.c.document).where(_classes.c.name == name)).scalar()
    if held == content:
        return False
    row = {"document": content, "updated_at": to_ms(at)}
    if held is None:
        tx.execute(insert(_classes).values(name=name, **row))
    else:
        tx.execute(update(_classes).where(_classes.c.name == name).values(row))
    return True


def get(tx: Connection, name: str) -> HardwareClass:
    """
    Raises:
        NotFound: no such class.
    """
    content = tx.execute(select(_classes.c.document).where(_classes.c.name == name)).scalar()
    if content is None:
        raise NotFound(
            f"There is no hardware class {name}.",
            next_step="create it with `mailboat class apply -f FILE`; "
            "`mailboat class list` shows those there are.",
        )
    return HardwareClass.model_validate(content)


def names(tx: Connection) -> tuple[str, ...]:
    return tuple(tx.execute(select(_classes.c.name).order_by(_classes.c.name)).scalars())


def every(tx: Connection) -> tuple[HardwareClass, ...]:
    rows = tx.execute(select(_classes.c.document).order_by(_classes.c.name)).scalars()
    return tuple(HardwareClass.model_validate(content) for content in rows)

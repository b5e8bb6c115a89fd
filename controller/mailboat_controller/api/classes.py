"""Hardware classes."""

from fastapi import APIRouter, Response
from pydantic import BaseModel

from mailboat_controller import class_orders
from mailboat_controller.api import etags
from mailboat_controller.api.context import Context
from mailboat_controller.api.identity import Operator, Reader
from mailboat_controller.api.limits import OptionalReason
from mailboat_controller.api.pages import Paged
from mailboat_controller.api.preconditions import IfMatch, refuse_another, tag_of
from mailboat_controller.store import classes
from mailboat_schemas.documents.hardware_class import HardwareClass
from mailboat_schemas.errors import Conflict
from mailboat_schemas.names import ClassName

router = APIRouter(prefix="/v1/hardware-classes", tags=["hardware classes"])


class Applied(BaseModel):
    name: str
    changed: bool


@router.get("")
def list_classes(_reader: Reader, paging: Paged, context: Context) -> list[HardwareClass]:
    """Every class, by name."""
    with context.store.read() as tx:
        rows = classes.every(tx)
    return paging.cut(rows, lambda each: (each.metadata.name,))


@router.get("/{name}")
def get_class(
    name: ClassName, _reader: Reader, context: Context, response: Response
) -> HardwareClass:
    """The document as it was applied."""
    with context.store.read() as tx:
        document = classes.get(tx, name)
    response.headers["ETag"] = etags.quoted(tag_of(document.model_dump(mode="json")))
    return document


@router.put("/{name}")
def apply_class(
    name: ClassName,
    document: HardwareClass,
    operator: Operator,
    context: Context,
    reason: OptionalReason = "",
    if_match: IfMatch = None,
) -> Applied:
    """Create or replace; the same document again changes nothing."""
    if document.metadata.name != name:
        raise Conflict(
            f"The document is called {document.metadata.name}, the address says {name}.",
            next_step="send it to the address of its own name.",
        )
    now = context.now()
    with context.store.transaction() as tx:
        held = {each.metadata.name: each for each in classes.every(tx)} if if_match else {}
        before = held[name].model_dump(mode="json") if name in held else None
        refuse_another(if_match, before, f"The hardware class {name}")
        changed = class_orders.apply_class(
            tx, document, actor=str(operator), reason=reason, now=now
        )
    if changed:
        context.wake()
    return Applied(name=name, changed=changed)

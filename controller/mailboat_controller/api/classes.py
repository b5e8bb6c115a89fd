"""Hardware classes."""

from fastapi import APIRouter
from pydantic import BaseModel

from mailboat_controller.api.context import Context
from mailboat_controller.api.identity import Operator, Reader
from mailboat_controller.api.limits import OptionalReason
from mailboat_controller.store import audit, classes
from mailboat_schemas.documents.hardware_class import HardwareClass
from mailboat_schemas.errors import Conflict
from mailboat_schemas.names import ClassName

router = APIRouter(prefix="/v1/hardware-classes", tags=["hardware classes"])


class Applied(BaseModel):
    name: str
    changed: bool


@router.get("")
def list_classes(_reader: Reader, context: Context) -> list[HardwareClass]:
    with context.store.read() as tx:
        return list(classes.every(tx))


@router.get("/{name}")
def get_class(name: ClassName, _reader: Reader, context: Context) -> HardwareClass:
    with context.store.read() as tx:
        return classes.get(tx, name)


@router.put("/{name}")
def apply_class(
    name: ClassName,
    document: HardwareClass,
    operator: Operator,
    context: Context,
    reason: OptionalReason = "",
) -> Applied:
    """Create or replace; the same document again changes nothing."""
    if document.metadata.name != name:
        raise Conflict(
            f"The document is called {document.metadata.name}, the address says {name}.",
            next_step="send it to the address of its own name.",
        )
    now = context.now()
    with context.store.transaction() as tx:
        changed = classes.put(tx, document, now)
        if changed:
            audit.append(
                tx,
                at=now,
                actor=str(operator),
                action="hardware_class.apply",
                subject=name,
                reason=reason,
                details=document.model_dump(mode="json", by_alias=True),
            )
    if changed:
        context.wake()
    return Applied(name=name, changed=changed)

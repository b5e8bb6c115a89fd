"""Keys of encrypted releases: publishers hand them over, devices get them wrapped."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel

from mailboat_controller.api.authentication import certificate_of
from mailboat_controller.api.context import Context
from mailboat_controller.api.identity import Device, Publisher, Reader
from mailboat_controller.api.pages import Paged
from mailboat_controller.content.keys import missing_content_key
from mailboat_controller.pki.certificates import public_key_of
from mailboat_controller.store import content_keys
from mailboat_controller.store.instants import to_ms
from mailboat_schemas.content_key import (
    CONTENT_KEY_ID_PATTERN,
    ContentKeyHandover,
    WrappedContentKey,
)

router = APIRouter(prefix="/v1/content-keys", tags=["content keys"])
KeyIdPath = Annotated[str, Path(pattern=CONTENT_KEY_ID_PATTERN)]


class HeldContentKey(BaseModel):
    """What may be told of a key: everything but the key."""

    content_key: str
    handed_over_by: str
    created_at: datetime
    devices: int  # that were given it


@router.get("")
def list_content_keys(_reader: Reader, paging: Paged, context: Context) -> list[HeldContentKey]:
    """Oldest first."""
    with context.store.read() as tx:
        rows = content_keys.every(tx)
    page = paging.cut(rows, lambda row: (to_ms(row.created_at), row.key_id))
    return [_told(row) for row in page]


@router.get("/{key_id}")
def get_content_key(key_id: KeyIdPath, _publisher: Publisher, context: Context) -> HeldContentKey:
    """Whether a key was handed over; never the key."""
    with context.store.read() as tx:
        row = content_keys.find(tx, key_id)
    if row is None:
        raise missing_content_key(key_id)
    return _told(row)


@router.put("/{key_id}", responses={201: {"model": HeldContentKey}})
def put_content_key(
    key_id: KeyIdPath,
    handover: ContentKeyHandover,
    publisher: Publisher,
    context: Context,
    response: Response,
) -> HeldContentKey:
    """Put if absent: 201 when the key is new, 200 when it was here. The id commits to the key."""
    key = bytes.fromhex(handover.key)
    if context.content_keys.take(key_id, key, actor=str(publisher), now=context.now()):
        response.status_code = 201
    return get_content_key(key_id, publisher, context)


@router.post("/{key_id}")
def give_content_key(
    key_id: KeyIdPath, request: Request, device: Device, context: Context, response: Response
) -> WrappedContentKey:
    """The key of a release for the device's class, wrapped to the key of its certificate."""
    # Each answer is for one device, and no two are the same.
    response.headers["Cache-Control"] = "no-store"
    certificate = certificate_of(request.scope) or b""  # a device is known by one
    public_key = public_key_of(certificate)
    return context.content_keys.give(key_id, device.name, public_key, now=context.now())


def _told(row: content_keys.ContentKeyRow) -> HeldContentKey:
    return HeldContentKey(
        content_key=row.key_id,
        handed_over_by=row.handed_over_by,
        created_at=row.created_at,
        devices=row.devices,
    )

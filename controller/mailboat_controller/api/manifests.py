"""Manifests and trust metadata over HTTPS: the same signed bytes that MQTT carries."""

import hashlib
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel

from mailboat_controller.api import etags
from mailboat_controller.api.context import Context
from mailboat_controller.api.identity import AnyHolder, DeviceOrOperator
from mailboat_controller.store import devices, manifests, trust_roles
from mailboat_schemas.enrolment import Kind
from mailboat_schemas.errors import NotFound, NotPermitted
from mailboat_schemas.names import ClassName
from mailboat_schemas.submission import RoleName

router = APIRouter(prefix="/v1", tags=["manifests and trust"])


class RootChain(BaseModel):
    roots: list[str]  # every version of root.json as text, oldest first


@router.get(
    "/manifests/{hardware_class}",
    response_class=Response,
    responses=etags.described(etags.MSGPACK),
)
def get_manifest(
    hardware_class: ClassName, request: Request, holder: DeviceOrOperator, context: Context
) -> Response:
    """The newest bundle of a class, for its devices and for operators."""
    with context.store.read() as tx:
        if holder.kind is Kind.DEVICE:
            own = devices.get(tx, holder.name).hardware_class
            if own != hardware_class:
                raise NotPermitted(
                    f"{holder} is of class {own}, not {hardware_class}.",
                    next_step="ask for the manifest of the device's own class.",
                )
        manifest = manifests.of_class(tx, hardware_class)
    if manifest is None:
        raise NotFound(
            f"There is no manifest of class {hardware_class} yet.",
            next_step="it is published with the first release; devices ask again by themselves.",
        )
    return etags.answer(request, manifest.bundle, manifest.etag, media_type=etags.MSGPACK)


@router.get("/trust/root")
def get_roots(_holder: AnyHolder, context: Context) -> RootChain:
    """The whole chain of roots."""
    with context.store.read() as tx:
        return RootChain(roots=[root.decode() for root in trust_roles.roots(tx)])


@router.get("/trust/roles/{role}", response_class=Response, responses=etags.described(etags.JSON))
def get_role(
    role: Annotated[RoleName, Path()], request: Request, _holder: AnyHolder, context: Context
) -> Response:
    """The newest signed bytes of one role, for CI and approvers to build on."""
    with context.store.read() as tx:
        newest = trust_roles.newest_of(tx, role)
    if newest is None:
        raise NotFound(
            f"There is no role {role}.",
            next_step="roles are made with `mailboat trust`; model roles are called "
            "release-<model> and approval-<model>.",
        )
    _version, content, _received_at = newest
    digest = hashlib.sha256(content).hexdigest()
    return etags.answer(request, content, digest, media_type="application/json")

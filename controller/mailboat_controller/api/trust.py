"""Keys and roles: how long they last, and taking in what people signed about them."""

import base64
import binascii
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from mailboat_controller.access.people import Role
from mailboat_controller.api.context import ApiContext, Context
from mailboat_controller.api.identity import Caller, Reader, require
from mailboat_controller.api.limits import Reason
from mailboat_controller.store import trust_roles
from mailboat_controller.trust import expiry
from mailboat_controller.trust.expiry import CertificateStatus, RoleStatus
from mailboat_controller.trust.role_intake import ROLES_MAX
from mailboat_schemas.errors import MalformedPayload
from mailboat_schemas.submission import RoleName

router = APIRouter(prefix="/v1/trust", tags=["manifests and trust"])

# The signatures are what counts. Approvers renew their own roles, operators bring ceremonies.
Bringer = Annotated[Caller, Depends(require(Role.OPERATOR, Role.APPROVER))]


class RoleState(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    role: str
    version: int
    expires: datetime
    days_left: int = Field(description="rounded down; below 0 once it has expired")
    level: expiry.Level
    threshold: int
    keys: list[str] = Field(description="who may sign it: name and beginning of the key's id")
    keyids: list[str]
    next_step: str = Field(description="empty while nothing needs doing")


class CertificateState(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    certificate: str
    expires: datetime
    days_left: int
    level: expiry.Level
    next_step: str


class TrustStatus(BaseModel):
    attention: bool = Field(description="something expires within its warning, or has")
    roles: list[RoleState] = Field(description="what expires first comes first")
    certificates: list[CertificateState]


class SignedRoles(BaseModel):
    """What `mailboat trust submit` sends."""

    model_config = ConfigDict(extra="forbid")

    roles: dict[RoleName, str] = Field(
        min_length=1, max_length=ROLES_MAX, description="signed metadata by role name, in base64"
    )
    reason: Reason


class RolesTaken(BaseModel):
    versions: dict[str, int]
    changes: list[str] = Field(description="what they change, in sentences")


@router.get("/status")
def get_status(_reader: Reader, context: Context) -> TrustStatus:
    """When each role and our own certificates expire, who may sign, and what to do."""
    roles, certificates = statuses(context)
    return TrustStatus(
        attention=expiry.needs_attention((*roles, *certificates)),
        roles=[RoleState.model_validate(each) for each in roles],
        certificates=[CertificateState.model_validate(each) for each in certificates],
    )


@router.post("/roles")
def take_roles(signed: SignedRoles, bringer: Bringer, context: Context) -> RolesTaken:
    """Verify and take new versions of root, targets and re-signed roles, all or none.

    A root must be signed by the keys of the old one and its own; every version must be the one
    after that in force (E-REBASE otherwise); releases and approvals cannot change here.
    """
    roles: dict[str, bytes] = {}
    for role, text in signed.roles.items():
        try:
            roles[role] = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError) as error:
            raise MalformedPayload(
                f"Role {role} is not in base64.", next_step="send it with `mailboat trust submit`."
            ) from error
    taken = context.take_roles(roles, str(bringer), signed.reason)
    return RolesTaken(versions=dict(taken.versions), changes=list(taken.changes))


def statuses(context: ApiContext) -> tuple[tuple[RoleStatus, ...], tuple[CertificateStatus, ...]]:
    """Of the roles in force and of the certificates on this disk."""
    now = context.now()
    with context.store.read() as tx:
        roles = trust_roles.newest(tx)
    certificates = {"ca": context.authority.ca_pem}
    server = context.settings.pki_dir / "server.pem"
    if server.is_file():
        certificates["server"] = server.read_bytes()
    return expiry.role_statuses(roles, now), expiry.certificate_statuses(certificates, now)

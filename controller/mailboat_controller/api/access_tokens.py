"""People's own tokens: looking at them, renewing one's own, cutting somebody off.

New ones are issued on the controller's disk alone (`mailboat token issue`): a stolen token must not
be able to make others.
"""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import BaseModel, Field

from mailboat_controller.access.people import Role, new_token
from mailboat_controller.api.authentication import refuse_ended
from mailboat_controller.api.context import Context
from mailboat_controller.api.identity import Operator, Viewer
from mailboat_controller.api.limits import Reason
from mailboat_controller.api.once_told import OnceTold
from mailboat_controller.api.pages import Paged
from mailboat_controller.store import access_tokens, audit
from mailboat_controller.store.access_tokens import AccessTokenRow
from mailboat_controller.store.instants import to_ms
from mailboat_schemas.errors import NotFound
from mailboat_schemas.names import Label

router = APIRouter(prefix="/v1/access-tokens", tags=["access"])

TokenId = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]


class AccessToken(BaseModel):
    """Everything about a token but its secret, which nobody has but its holder."""

    id: str
    name: str
    role: Role
    created_at: datetime
    created_by: str
    expires_at: datetime
    renewable_until: datetime
    last_used_at: datetime | None
    revoked: bool


class RenewedToken(BaseModel):
    token: str = Field(description="the whole token; it is told this once")
    id: str
    expires_at: datetime


class TokenRevocation(BaseModel):
    reason: Reason
    id: TokenId | None = Field(default=None, description="only this one, with its renewals")


class RevokedTokens(BaseModel):
    name: str
    revoked: int = Field(description="how many were in force")


@router.get("")
def list_tokens(_operator: Operator, paging: Paged, context: Context) -> list[AccessToken]:
    """Every token, ended ones too, oldest first."""
    with context.store.read() as tx:
        rows = access_tokens.every(tx)
    page = paging.cut(rows, lambda row: (to_ms(row.created_at), row.id))
    return [_shown(row) for row in page]


@router.get("/self")
def get_own_token(person: Viewer, context: Context) -> AccessToken:
    """The token with which this is asked."""
    with context.store.read() as tx:
        return _shown(_row(access_tokens.by_id(tx, person.token_id)))


@router.post("/self/renew", status_code=201, dependencies=[OnceTold])
def renew_own_token(person: Viewer, context: Context) -> RenewedToken:
    """A successor with the same name, role and life. The old one ends when the new one is first
    used."""
    token, now = new_token(), context.now()
    with context.store.transaction() as tx:
        old = _row(access_tokens.by_id(tx, person.token_id))
        # It may have been revoked since the door let it in; its successor would outlive that.
        refuse_ended(old, now)
        renewed = access_tokens.renew(tx, old, token, now)
        audit.append(
            tx,
            at=now,
            actor=str(person),
            action="access_token.renew",
            subject=f"token:{renewed.id}",
            reason="renewed by its holder before its end",
            details={"from": old.id, "expires_at": renewed.expires_at.isoformat()},
        )
    return RenewedToken(token=token.text(), id=renewed.id, expires_at=renewed.expires_at)


@router.post("/{name}/revoke")
def revoke_tokens(
    name: Annotated[Label, Path()],
    revocation: TokenRevocation,
    operator: Operator,
    context: Context,
) -> RevokedTokens:
    """Cut a person off, from the next request on."""
    now = context.now()
    with context.store.transaction() as tx:
        count = access_tokens.revoke(tx, name, now, token_id=revocation.id)
        if count == 0:
            raise NotFound(
                f"{name} has no such access token in force.",
                next_step="`mailboat token list` shows all of them.",
            )
        audit.append(
            tx,
            at=now,
            actor=str(operator),
            action="access_token.revoke",
            subject=f"person:{name}",
            reason=revocation.reason,
            details={"id": revocation.id, "count": count},
        )
    return RevokedTokens(name=name, revoked=count)


def _row(row: AccessTokenRow | None) -> AccessTokenRow:
    if row is None:
        raise NotFound(
            "This token is not in the registry any more.",
            next_step="ask for a new one: `mailboat token issue` on the controller's machine.",
        )
    return row


def _shown(row: AccessTokenRow) -> AccessToken:
    return AccessToken(
        id=row.id,
        name=row.name,
        role=row.role,
        created_at=row.created_at,
        created_by=row.created_by,
        expires_at=row.expires_at,
        renewable_until=row.renewable_until,
        last_used_at=row.last_used_at,
        revoked=row.revoked_at is not None,
    )

"""People's tokens: issued, used, renewed, revoked. Only the sha256 of a secret is kept."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from mailboat_controller.access.people import RENEWABLE, Role, Token
from mailboat_controller.store.access_tables import access_tokens as _tokens
from mailboat_controller.store.instants import from_ms, to_ms
from mailboat_schemas.errors import Conflict

USED_EVERY = timedelta(hours=1)  # a write for every request would make readers wait for the disk
IN_FORCE_PER_NAME_MAX = 50  # somebody who makes more has a script that should renew
# Of one token within its year: daily, and some to spare. Each leaves a row here and an audit entry.
RENEWALS_MAX = 400
# How long a list shows what has ended. The audit log keeps it for ever.
KEPT_AFTER_END = timedelta(days=365)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessTokenRow:
    id: str
    family: str
    name: str
    role: Role
    secret_sha256: str
    days: int
    created_at: datetime
    created_by: str
    expires_at: datetime
    renewable_until: datetime
    last_used_at: datetime | None  # at most `USED_EVERY` behind
    revoked_at: datetime | None

    def in_force(self, now: datetime) -> bool:
        return self.revoked_at is None and now < self.expires_at


def add(
    tx: Connection,
    token: Token,
    *,
    name: str,
    role: Role,
    days: int,
    at: datetime,
    created_by: str,
) -> AccessTokenRow:
    """A new token of a person.

    Raises:
        Conflict: they have too many in force.
    """
    c = _tokens.c
    tx.execute(delete(_tokens).where(c.expires_at < to_ms(at - KEPT_AFTER_END)))
    alive = (c.name == name, c.revoked_at.is_(None), c.expires_at > to_ms(at))
    count = tx.execute(select(func.count()).select_from(_tokens).where(*alive)).scalar_one()
    if count >= IN_FORCE_PER_NAME_MAX:
        raise Conflict(
            f"{name} has {count} tokens in force already.",
            next_step="revoke those that nobody needs: `mailboat token list` shows them.",
        )
    return _put(
        tx,
        token,
        family=token.id,
        name=name,
        role=role,
        days=days,
        created_at=to_ms(at),
        created_by=created_by[:128],
        expires_at=to_ms(at + timedelta(days=days)),
        renewable_until=to_ms(at + RENEWABLE),
    )


def renew(tx: Connection, old: AccessTokenRow, token: Token, at: datetime) -> AccessTokenRow:
    """A successor with the same name, role and life. The old one ends when the new one is first
    used (`use`), so a lost answer locks nobody out; one that was lost so is deleted here.

    Raises:
        Conflict: it has been renewed for as long, or as often, as may be.
    """
    expires_at = min(at + timedelta(days=old.days), old.renewable_until)
    if expires_at <= old.expires_at:
        raise Conflict(
            f"This token of {old.name} cannot be renewed beyond {old.renewable_until:%Y-%m-%d}.",
            next_step="ask for a new one: `mailboat token issue` on the controller's machine.",
        )
    c = _tokens.c
    of_family = select(func.count()).select_from(_tokens).where(c.family == old.family)
    if tx.execute(of_family).scalar_one() > RENEWALS_MAX:
        raise Conflict(
            f"This token of {old.name} was renewed {RENEWALS_MAX} times.",
            next_step="ask for a new one: `mailboat token issue` on the controller's machine; "
            "renew it when `mailboat` says that it ends soon.",
        )
    unused = (c.family == old.family, c.id != old.id, c.last_used_at.is_(None))
    tx.execute(delete(_tokens).where(*unused, c.revoked_at.is_(None)))
    return _put(
        tx,
        token,
        family=old.family,
        name=old.name,
        role=old.role,
        days=old.days,
        created_at=to_ms(at),
        created_by=f"{old.role}:{old.name}",
        expires_at=to_ms(expires_at),
        renewable_until=to_ms(old.renewable_until),
    )


def use(tx: Connection, row: AccessTokenRow, at: datetime) -> None:
    """Note that a token was used. The first use of a successor ends what it was renewed from."""
    c = _tokens.c
    tx.execute(update(_tokens).where(c.id == row.id).values(last_used_at=to_ms(at)))
    if row.last_used_at is None and row.id != row.family:
        older = (c.family == row.family, c.id != row.id, c.created_at <= to_ms(row.created_at))
        tx.execute(
            update(_tokens).where(*older, c.revoked_at.is_(None)).values(revoked_at=to_ms(at))
        )


def revoke(tx: Connection, name: str, at: datetime, *, token_id: str | None = None) -> int:
    """End every token of a person, or one with all it was renewed into; returns how many were in
    force."""
    c = _tokens.c
    those = [c.name == name, c.revoked_at.is_(None), c.expires_at > to_ms(at)]
    if token_id is not None:
        family = select(c.family).where(c.id == token_id).scalar_subquery()
        those.append(c.family == family)
    return tx.execute(update(_tokens).where(*those).values(revoked_at=to_ms(at))).rowcount


def by_id(tx: Connection, token_id: str) -> AccessTokenRow | None:
    row = tx.execute(select(_tokens).where(_tokens.c.id == token_id)).first()
    return None if row is None else _read(row._mapping)


def every(tx: Connection) -> tuple[AccessTokenRow, ...]:
    """Oldest first."""
    rows = tx.execute(select(_tokens).order_by(_tokens.c.created_at, _tokens.c.id))
    return tuple(_read(row._mapping) for row in rows)


def _put(tx: Connection, token: Token, **values: Any) -> AccessTokenRow:
    known = {"id": token.id, "secret_sha256": token.secret_sha256}
    tx.execute(insert(_tokens).values(**known, **values, last_used_at=None, revoked_at=None))
    row = by_id(tx, token.id)
    assert row is not None  # noqa: S101  it was written a line above
    return row


def _read(row: Any) -> AccessTokenRow:
    read = {name: from_ms(row[name]) for name in ("created_at", "expires_at", "renewable_until")}
    maybe = {
        name: None if row[name] is None else from_ms(row[name])
        for name in ("last_used_at", "revoked_at")
    }
    return AccessTokenRow(**{**row, **read, **maybe, "role": Role(row["role"])})

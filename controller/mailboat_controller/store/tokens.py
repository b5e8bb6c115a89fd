"""One-time enrolment tokens. Only their sha256 is kept, so a stolen database enrols nobody."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, insert, select, update

from mailboat_controller.store import tables
from mailboat_controller.store.instants import to_ms
from mailboat_schemas.errors import NotPermitted

_tokens = tables.enrolment_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """What a token lets its holder become."""

    hardware_class: str
    site: str
    labels: Mapping[str, str]
    created_by: str
    approval: bool = False  # a person compares the key's fingerprint first


def add_token(
    tx: Connection,
    token: str,
    *,
    hardware_class: str,
    site: str,
    labels: Mapping[str, str],
    uses: int,
    expires_at: datetime,
    at: datetime,
    created_by: str,
    approval: bool = False,
) -> None:
    tx.execute(
        insert(_tokens).values(
            token_sha256=token_sha256(token),
            hardware_class=hardware_class,
            site=site,
            labels=dict(labels),
            uses_left=uses,
            expires_at=to_ms(expires_at),
            created_at=to_ms(at),
            created_by=created_by,
            approval=approval,
        )
    )


def use_token(tx: Connection, token: str, now: datetime) -> Grant:
    """Spend one use of a token.

    Raises:
        NotPermitted: unknown, used up or expired. Which of these is not told: the caller may be
            anybody who can reach the port.
    """
    c = _tokens.c
    key = token_sha256(token)
    # One conditional update, so that two devices cannot both spend the last use.
    spent = tx.execute(
        update(_tokens)
        .where(c.token_sha256 == key, c.uses_left > 0, c.expires_at > to_ms(now))
        .values(uses_left=c.uses_left - 1)
    )
    if spent.rowcount != 1:
        raise NotPermitted(
            "This enrolment token is unknown, used up or expired.",
            next_step="ask the operator for a new kit: `mailboat device enroll-token`.",
        )
    row = tx.execute(
        select(c.hardware_class, c.site, c.labels, c.created_by, c.approval).where(
            c.token_sha256 == key
        )
    ).one()
    return Grant(**row._mapping)


def token_sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()

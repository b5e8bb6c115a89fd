"""Sessions of people in the console. Only the sha256 of a session's secret is kept."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, delete, insert, select, update

from mailboat_controller.store.console_tables import console_sessions as _sessions
from mailboat_controller.store.instants import from_ms, to_ms

# Of one access token: browsers of one person. One more, and the oldest of them is logged out.
PER_TOKEN_MAX = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRow:
    token_id: str
    began_at: datetime
    seen_at: datetime
    ends_at: datetime


def add(
    tx: Connection, secret_sha256: str, *, token_id: str, at: datetime, ends_at: datetime
) -> None:
    """Begin one; those that have ended go, and the oldest beyond `PER_TOKEN_MAX`."""
    c = _sessions.c
    tx.execute(delete(_sessions).where(c.ends_at <= to_ms(at)))
    beyond = (
        select(c.secret_sha256)
        .where(c.token_id == token_id)
        .order_by(c.began_at.desc(), c.secret_sha256)
        .offset(PER_TOKEN_MAX - 1)
        .limit(PER_TOKEN_MAX)
    )
    old = list(tx.execute(beyond).scalars())
    tx.execute(delete(_sessions).where(c.secret_sha256.in_(old)))
    row = {"secret_sha256": secret_sha256, "token_id": token_id, "ends_at": to_ms(ends_at)}
    tx.execute(insert(_sessions).values(**row, began_at=to_ms(at), seen_at=to_ms(at)))


def by_sha256(tx: Connection, secret_sha256: str) -> SessionRow | None:
    row = tx.execute(select(_sessions).where(_sessions.c.secret_sha256 == secret_sha256)).first()
    if row is None:
        return None
    return SessionRow(
        token_id=row.token_id,
        began_at=from_ms(row.began_at),
        seen_at=from_ms(row.seen_at),
        ends_at=from_ms(row.ends_at),
    )


def see(tx: Connection, secret_sha256: str, at: datetime) -> None:
    tx.execute(
        update(_sessions)
        .where(_sessions.c.secret_sha256 == secret_sha256)
        .values(seen_at=to_ms(at))
    )


def end(tx: Connection, secret_sha256: str) -> None:
    tx.execute(delete(_sessions).where(_sessions.c.secret_sha256 == secret_sha256))


def end_every(tx: Connection) -> None:
    """Log everybody out, such as of a database that was put back to an earlier day."""
    tx.execute(delete(_sessions))

"""Changes under a key: claimed by one attempt, kept with their answer, forgotten in time.

What an attempt writes is written with a note that it wrote, in one transaction (`note_written`). So
of an attempt that was cut off, by a crash or a full disk, it is known whether anything came of it:
if nothing did, another may take the key; and the one that was cut off, should it live on somewhere,
commits no more.
"""

from collections.abc import Container, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from sqlalchemy import ColumnElement, Connection, delete, func, select, update

from mailboat_controller.store.idempotency_tables import idempotency_keys
from mailboat_controller.store.instants import to_ms
from mailboat_controller.store.retention import Step
from mailboat_controller.store.upsert import upsert
from mailboat_schemas.errors import Conflict

FORGOTTEN_AT_ONCE = 100  # with every new one, so more go than come


class Result(Enum):
    OURS = "ours"
    OTHER_REQUEST = "other request"
    IN_PROGRESS = "in progress"
    CUT_OFF = "cut off"  # after it had written something
    TOO_MANY = "too many"
    WHOLE = "whole"
    STATUS_ALONE = "status alone"


@dataclass(frozen=True, slots=True)
class Claim:
    caller: str  # kind:name
    key: str
    request_sha256: str
    attempt: str  # no other request has it


# What transactions are written for. Threads that work for a request have a copy of its context.
UNDER_WAY: ContextVar[Claim | None] = ContextVar("mailboat_claim", default=None)


class ClaimLost(Conflict):
    """Another attempt has taken the key; nothing of this transaction is kept."""

    code = "E-IDEMPOTENCY-LOST"


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer; headers and body are empty unless ``result`` is WHOLE."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    result: Result


def claim(
    tx: Connection,
    wanted: Claim,
    *,
    now: datetime,
    life: timedelta,
    keys_max: int,
    under_way: Container[str] = (),
) -> Kept | Result:
    """Take the key for an attempt, or tell what became of the one that has it.

    Args:
        under_way: attempts whose end will be told; any other was cut off.
    """
    c = idempotency_keys.c
    _forget_ended(tx, now)
    count = select(func.count()).select_from(idempotency_keys).where(c.caller == wanted.caller)
    full = tx.execute(count).scalar_one() >= keys_max
    if not full:
        taken = tx.execute(
            upsert(tx, idempotency_keys)
            .values(
                caller=wanted.caller,
                key=wanted.key,
                request_sha256=wanted.request_sha256,
                begun_at=to_ms(now),
                ends_at=to_ms(now + life),
                whole=0,
                headers={},
                body=b"",
                attempt=wanted.attempt,
                written=0,
            )
            .on_conflict_do_nothing()
            .returning(c.key)
        )
        if taken.first() is not None:
            return Result.OURS
    row = tx.execute(select(idempotency_keys).where(*_is(wanted))).first()
    if row is None:
        return Result.TOO_MANY
    if row.request_sha256 != wanted.request_sha256:
        return Result.OTHER_REQUEST
    if row.status is None:
        return _take_over(tx, wanted, row.attempt, row.written, under_way)
    result = Result.WHOLE if row.whole else Result.STATUS_ALONE
    return Kept(row.status, dict(row.headers), bytes(row.body), result)


def _take_over(
    tx: Connection, wanted: Claim, attempt: str, written: int, under_way: Container[str]
) -> Result:
    if attempt in under_way:
        return Result.IN_PROGRESS
    if written:
        return Result.CUT_OFF
    held = idempotency_keys.c.attempt == attempt
    tx.execute(update(idempotency_keys).where(*_is(wanted), held).values(attempt=wanted.attempt))
    return Result.OURS


def note_written(tx: Connection) -> None:
    """For the end of every transaction that writes: nothing to do where none is under a key.

    Raises:
        ClaimLost
    """
    claimed = UNDER_WAY.get()
    if claimed is None:
        return
    noted = tx.execute(update(idempotency_keys).where(*_holds(claimed)).values(written=1))
    if noted.rowcount != 1:
        raise ClaimLost(
            f"The change {claimed.key} took so long that it was begun again; this attempt made "
            "nothing.",
            next_step="send the same request with the same key again: it is told what came of it.",
        )


def finish(tx: Connection, claimed: Claim, answer: Kept) -> None:
    tx.execute(
        update(idempotency_keys)
        .where(*_holds(claimed))
        .values(
            status=answer.status,
            whole=int(answer.result is Result.WHOLE),
            headers=dict(answer.headers),
            body=answer.body,
        )
    )


def forget(tx: Connection, claimed: Claim, *, unless_written: bool = False) -> None:
    """The change was not made: the key is free again."""
    gone = delete(idempotency_keys).where(*_holds(claimed))
    if unless_written:
        gone = gone.where(idempotency_keys.c.written == 0)
    tx.execute(gone)


def drop_ended(tx: Connection, *, now: datetime) -> Step:
    """Those whose time is over, also while nobody sends new ones."""
    gone = _forget_ended(tx, now)
    return Step(gone, more=gone == FORGOTTEN_AT_ONCE)


def _forget_ended(tx: Connection, now: datetime) -> int:
    c = idempotency_keys.c
    ended = select(c.caller, c.key).where(c.ends_at <= to_ms(now)).limit(FORGOTTEN_AT_ONCE)
    rows = list(tx.execute(ended))
    for caller, key in rows:
        tx.execute(delete(idempotency_keys).where(c.caller == caller, c.key == key))
    return len(rows)


def _is(wanted: Claim) -> tuple[ColumnElement[bool], ...]:
    c = idempotency_keys.c
    return (c.caller == wanted.caller, c.key == wanted.key)


def _holds(claimed: Claim) -> tuple[ColumnElement[bool], ...]:
    return (*_is(claimed), idempotency_keys.c.attempt == claimed.attempt)

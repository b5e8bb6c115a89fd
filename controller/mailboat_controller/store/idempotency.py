"""Changes under a key: claimed by one request, kept with their answer, forgotten in time."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from sqlalchemy import ColumnElement, Connection, delete, func, select, update

from mailboat_controller.store.idempotency_tables import idempotency_keys
from mailboat_controller.store.instants import to_ms
from mailboat_controller.store.retention import Step
from mailboat_controller.store.upsert import upsert

FORGOTTEN_AT_ONCE = 100  # with every new one, so more go than come


class Result(Enum):
    OURS = "ours"
    OTHER_REQUEST = "other request"
    IN_PROGRESS = "in progress"
    TOO_MANY = "too many"
    WHOLE = "whole"
    STATUS_ALONE = "status alone"


@dataclass(frozen=True, slots=True)
class Claim:
    caller: str  # kind:name
    key: str
    request_sha256: str


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer; headers and body are empty unless ``result`` is WHOLE."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    result: Result


def claim(
    tx: Connection, wanted: Claim, *, now: datetime, life: timedelta, keys_max: int
) -> Kept | Result:
    """Take the key for a request, or tell what became of the one that has it."""
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
        return Result.IN_PROGRESS
    result = Result.WHOLE if row.whole else Result.STATUS_ALONE
    return Kept(row.status, dict(row.headers), bytes(row.body), result)


def finish(tx: Connection, claimed: Claim, answer: Kept) -> None:
    tx.execute(
        update(idempotency_keys)
        .where(*_is(claimed))
        .values(
            status=answer.status,
            whole=int(answer.result is Result.WHOLE),
            headers=dict(answer.headers),
            body=answer.body,
        )
    )


def forget(tx: Connection, claimed: Claim) -> None:
    """The change was not made: the key is free again."""
    tx.execute(delete(idempotency_keys).where(*_is(claimed)))


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

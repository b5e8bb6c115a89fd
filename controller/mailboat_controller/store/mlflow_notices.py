"""What MLflow's webhooks told: aliases to look at. Bounded; the oldest go first.

A notice says *look* and nothing else, so that one that is lost costs a poll's interval.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import Connection, delete, func, select

from mailboat_controller.store.instants import from_ms, to_ms
from mailboat_controller.store.mlflow_tables import mlflow_counts, mlflow_notices
from mailboat_controller.store.upsert import upsert

# Far more than come in the minutes in which a delivery could be sent again.
NOTICES_MAX = 10_000
PAGE_MAX = 500


class Result(StrEnum):
    TAKEN = "taken"
    REPEATED = "repeated"
    IGNORED = "ignored"  # of an alias that nobody watches, or of something else


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    number: int
    registered: str
    alias: str
    at: datetime


def put(tx: Connection, *, delivery: str, registered: str, alias: str, at: datetime) -> Result:
    """Keep it, unless this very delivery came before."""
    statement = (
        upsert(tx, mlflow_notices)
        .values(delivery=delivery, registered=registered, alias=alias, at=to_ms(at))
        .on_conflict_do_nothing(index_elements=["delivery"])
        .returning(mlflow_notices.c.number)
    )
    newest = tx.execute(statement).scalar_one_or_none()
    if newest is None:
        return Result.REPEATED
    tx.execute(delete(mlflow_notices).where(mlflow_notices.c.number <= newest - NOTICES_MAX))
    return Result.TAKEN


def count(tx: Connection, result: Result) -> None:
    statement = upsert(tx, mlflow_counts).values(result=result.value, times=1)
    tx.execute(
        statement.on_conflict_do_update(
            index_elements=["result"], set_={"times": mlflow_counts.c.times + 1}
        )
    )


def counts(tx: Connection) -> dict[str, int]:
    """How many came, by what became of them."""
    found = {row.result: row.times for row in tx.execute(select(mlflow_counts))}
    return {result.value: found.get(result.value, 0) for result in Result}


def newest(tx: Connection) -> int:
    """0 while none has come."""
    return tx.execute(select(func.max(mlflow_notices.c.number))).scalar() or 0


def after(tx: Connection, number: int, limit: int = PAGE_MAX) -> tuple[Notice, ...]:
    """In the order they came."""
    rows = tx.execute(
        select(mlflow_notices)
        .where(mlflow_notices.c.number > number)
        .order_by(mlflow_notices.c.number)
        .limit(limit)
    )
    return tuple(
        Notice(number=row.number, registered=row.registered, alias=row.alias, at=from_ms(row.at))
        for row in rows
    )

"""Enrolments that wait for a person's approval."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from mailboat_controller.store.device_tables import enrolment_requests
from mailboat_controller.store.instants import from_ms, to_ms
from mailboat_controller.store.tokens import Grant
from mailboat_schemas.errors import Conflict, NotFound

# Long enough for a weekend and a holiday; then the device asks with a new kit.
KEPT = timedelta(days=14)
WAITING_MAX = 10_000  # as many as one kit may let in

_requests = enrolment_requests


class State(StrEnum):
    PENDING = "pending"
    APPROVED = "approved"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolmentRequestRow:
    device: str
    token_sha256: str
    public_key: bytes
    hardware_class: str
    site: str
    labels: Mapping[str, str]
    token_by: str
    state: State
    decided_by: str
    requested_at: datetime
    expires_at: datetime

    @property
    def grant(self) -> Grant:
        return Grant(
            hardware_class=self.hardware_class,
            site=self.site,
            labels=self.labels,
            created_by=self.token_by,
            approval=True,
        )


def find(tx: Connection, device: str, now: datetime) -> EnrolmentRequestRow | None:
    """The request of a device, unless it has waited for too long."""
    c = _requests.c
    row = tx.execute(select(_requests).where(c.device == device, c.expires_at > to_ms(now))).first()
    return None if row is None else _read(row._mapping)


def add(
    tx: Connection, device: str, *, token_sha256: str, public_key: bytes, grant: Grant, at: datetime
) -> EnrolmentRequestRow:
    """
    Raises:
        Conflict: as many wait as may wait.
    """
    tx.execute(delete(_requests).where(_requests.c.expires_at <= to_ms(at)))
    waiting = tx.execute(select(func.count()).select_from(_requests)).scalar_one()
    if waiting >= WAITING_MAX:
        raise Conflict(
            f"{WAITING_MAX} enrolments wait for approval already.",
            next_step="approve or reject some: `mailboat device list --pending`.",
        )
    tx.execute(
        insert(_requests).values(
            device=device,
            token_sha256=token_sha256,
            public_key=public_key,
            hardware_class=grant.hardware_class,
            site=grant.site,
            labels=dict(grant.labels),
            token_by=grant.created_by,
            state=State.PENDING,
            decided_by="",
            requested_at=to_ms(at),
            expires_at=to_ms(at + KEPT),
        )
    )
    return get(tx, device, at)


def get(tx: Connection, device: str, now: datetime) -> EnrolmentRequestRow:
    """
    Raises:
        NotFound: nobody asks under this name.
    """
    row = find(tx, device, now)
    if row is None:
        raise NotFound(
            f"No device asks to be enrolled as {device}.",
            next_step="`mailboat device list --pending` shows who waits.",
        )
    return row


def decide(tx: Connection, device: str, state: State, *, by: str, now: datetime) -> bool:
    """Approve or reject a request; False when it stands so already.

    Raises:
        NotFound: nobody asks under this name. Conflict: it was decided otherwise.
    """
    row = get(tx, device, now)
    if row.state is state:
        return False
    if row.state is not State.PENDING:
        raise Conflict(
            f"The enrolment of {device} was {row.state} by {row.decided_by}.",
            next_step="revoke the device if it should not be there, or make a new kit for it.",
        )
    tx.execute(
        update(_requests).where(_requests.c.device == device).values(state=state, decided_by=by)
    )
    return True


def forget(tx: Connection, device: str) -> None:
    tx.execute(delete(_requests).where(_requests.c.device == device))


def pending(
    tx: Connection, now: datetime, *, limit: int | None = None
) -> tuple[EnrolmentRequestRow, ...]:
    c = _requests.c
    rows = tx.execute(
        select(_requests)
        .where(c.state == State.PENDING, c.expires_at > to_ms(now))
        .order_by(c.requested_at, c.device)
        .limit(limit)
    )
    return tuple(_read(row._mapping) for row in rows)


def count_pending(tx: Connection, now: datetime) -> int:
    """All of them: the table holds no more than `WAITING_MAX`, whatever the size of the fleet."""
    c = _requests.c
    waiting = (c.state == State.PENDING, c.expires_at > to_ms(now))
    return tx.execute(select(func.count()).select_from(_requests).where(*waiting)).scalar_one()


def _read(row: Any) -> EnrolmentRequestRow:
    instants = {name: from_ms(row[name]) for name in ("requested_at", "expires_at")}
    return EnrolmentRequestRow(**{**row, **instants, "state": State(row["state"])})

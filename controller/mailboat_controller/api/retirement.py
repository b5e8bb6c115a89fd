"""Retiring releases: their files are kept no more."""

from fastapi import APIRouter
from pydantic import BaseModel, Field

from mailboat_controller.api.context import Context
from mailboat_controller.api.identity import Operator
from mailboat_controller.api.limits import Reason
from mailboat_controller.releases import retirement
from mailboat_controller.store import releases
from mailboat_controller.store.releases import ReleaseRow
from mailboat_controller.store.transaction import Transaction
from mailboat_schemas.errors import NotFound
from mailboat_schemas.names import ModelName, Version

router = APIRouter(prefix="/v1/releases", tags=["releases"])


class Retirement(BaseModel):
    reason: Reason
    force: bool = Field(default=False, description="although a class keeps it, or devices run it")


class Reinstatement(BaseModel):
    reason: Reason


class RetirementAnswer(BaseModel):
    """Files that no other release names go after so many days without a name."""

    model: str
    version: str
    digest: str
    retired: bool
    grace_days: float


@router.post("/{model}/{version}/retire")
def retire_release(
    model: ModelName, version: Version, order: Retirement, operator: Operator, context: Context
) -> RetirementAnswer:
    """Keep its files no more. 409 while it is current or offered, and, unless forced, while a
    class keeps it, another release falls back to it, or a device runs it."""
    with context.store.transaction() as tx:
        row = _row(tx, model, version)
        retirement.retire(
            tx,
            row,
            actor=str(operator),
            reason=order.reason,
            force=order.force,
            now=context.now(),
        )
    context.wake()
    return _answer(row, context, retired=True)


@router.post("/{model}/{version}/reinstate")
def reinstate_release(
    model: ModelName, version: Version, order: Reinstatement, operator: Operator, context: Context
) -> RetirementAnswer:
    """Take a retirement back. 409 once some of its files are gone."""
    with context.store.transaction() as tx:
        row = _row(tx, model, version)
        retirement.reinstate(
            tx,
            row,
            context.artifacts,
            actor=str(operator),
            reason=order.reason,
            now=context.now(),
        )
    context.wake()
    return _answer(row, context, retired=False)


def _row(tx: Transaction, model: str, version: str) -> ReleaseRow:
    row = releases.by_version(tx, model, version)
    if row is None:
        raise NotFound(
            f"There is no release {model} {version}.",
            next_step="`mailboat release list` shows those there are.",
        )
    return row


def _answer(row: ReleaseRow, context: Context, *, retired: bool) -> RetirementAnswer:
    return RetirementAnswer(
        model=row.model,
        version=row.version,
        digest=row.digest,
        retired=retired,
        grace_days=context.settings.artifacts.grace_days,
    )

"""Documents that are kept in files: compared with what stands, applied, and watched for drift."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from mailboat_controller.api.context import ApiContext, Context
from mailboat_controller.api.identity import Operator, Reader
from mailboat_controller.api.limits import NUMBER_MAX, PRINTED, OptionalReason
from mailboat_controller.api.pages import Paged
from mailboat_controller.gitops.applying import Applier, Order, Outcome
from mailboat_controller.gitops.differences import Verb
from mailboat_controller.gitops.kinds import Declared
from mailboat_controller.gitops.pulls import Pull, record
from mailboat_controller.gitops.reading import DOCUMENTS_MAX
from mailboat_controller.store import gitops
from mailboat_controller.store.gitops import PullState, SetRow
from mailboat_schemas.names import Label

router = APIRouter(prefix="/v1/gitops", tags=["gitops"])

Commit = Annotated[str, StringConstraints(pattern=r"^(?:|[0-9a-f]{7,64})$")]
Words = Annotated[str, StringConstraints(max_length=1000, pattern=PRINTED)]
Document = Annotated[Declared, Field(discriminator="kind")]


class DocumentSet(BaseModel):
    """Every document of a set. With ``prune``, what it once had and has no more is taken away."""

    model_config = ConfigDict(extra="forbid")

    documents: list[Document] = Field(max_length=DOCUMENTS_MAX)
    prune: bool = False


class SetToApply(DocumentSet):
    reason: OptionalReason = ""
    commit: Commit = Field(default="", description="of Git, where it is known")
    generation: int | None = Field(
        default=None, ge=0, le=NUMBER_MAX, description="that was compared; another is refused"
    )


class FieldDifference(BaseModel):
    """``before`` null: it was not there. ``after`` null: it is taken away."""

    field: str
    before: Any
    after: Any


class DocumentResult(BaseModel):
    kind: str
    name: str
    result: Verb
    differences: list[FieldDifference]
    because: str
    next_step: str
    code: str = Field(description="of the refusal; else empty")


class SetResult(BaseModel):
    """``generation`` counts the applies that changed something."""

    set: str
    generation: int
    commit: str
    different: int
    results: list[DocumentResult]


class PullReport(BaseModel):
    """What a loop that pulls a repository found. ``differences`` null: it could not compare."""

    model_config = ConfigDict(extra="forbid")

    repository: Words
    branch: Words
    commit: Commit = ""
    signer: Words = ""
    state: PullState
    because: Words = ""
    differences: int | None = Field(default=None, ge=0, le=DOCUMENTS_MAX * 2)


class SetStatus(BaseModel):
    """``commit`` is the one applied, ``pulled_commit`` the newest that the loop saw."""

    set: str
    generation: int
    commit: str
    applied_at: datetime | None
    applied_by: str
    repository: str
    branch: str
    pulled_commit: str
    signer: str
    state: PullState
    because: str
    differences: int
    pulled_at: datetime | None


@router.get("")
def list_sets(_reader: Reader, paging: Paged, context: Context) -> list[SetStatus]:
    """Every set that was applied or is pulled, by name."""
    with context.store.read() as tx:
        rows = gitops.every_set(tx)
    return [_status(row) for row in paging.cut(rows, lambda row: (row.name,))]


@router.get("/{name}")
def get_set(name: Label, _reader: Reader, context: Context) -> SetStatus:
    """A set that was never applied is one of generation 0."""
    with context.store.read() as tx:
        return _status(gitops.find_set(tx, name))


@router.post("/{name}/diff")
def diff_set(name: Label, wanted: DocumentSet, _reader: Reader, context: Context) -> SetResult:
    """What applying would do. Nothing is written."""
    order = Order(set_name=name, documents=tuple(wanted.documents), prune=wanted.prune)
    return _result(_applier(context).diff(order))


@router.post("/{name}/apply")
def apply_set(name: Label, wanted: SetToApply, operator: Operator, context: Context) -> SetResult:
    """Make it so, document by document; what an approver has to sign waits for one."""
    outcome = _applier(context).apply(
        Order(
            set_name=name,
            documents=tuple(wanted.documents),
            prune=wanted.prune,
            actor=str(operator),
            reason=wanted.reason,
            commit=wanted.commit,
            generation=wanted.generation,
        )
    )
    if outcome.done:
        context.wake()
    if any(each.kind == "Site" for each in outcome.done):
        context.access_changed()  # a bridge is let in before it has a certificate
    return _result(outcome)


@router.post("/{name}/pulls")
def report_pull(name: Label, report: PullReport, operator: Operator, context: Context) -> SetStatus:
    """A loop tells what it found; a change of it stands in the audit log."""
    content = report.model_dump()
    with context.store.transaction() as tx:
        return _status(record(tx, name, Pull(**content), actor=str(operator), now=context.now()))


def _applier(context: ApiContext) -> Applier:
    return Applier(context.store, context.overrides, context.now)


def _result(outcome: Outcome) -> SetResult:
    row = outcome.row
    return SetResult(
        set=row.name,
        generation=row.generation,
        commit=row.commit,
        different=outcome.different,
        results=[
            DocumentResult(
                kind=each.kind,
                name=each.name,
                result=each.verb,
                differences=[
                    FieldDifference(field=one.field, before=one.before, after=one.after)
                    for one in each.differences
                ],
                because=each.because,
                next_step=each.next_step,
                code=each.code,
            )
            for each in outcome.results
        ],
    )


def _status(row: SetRow) -> SetStatus:
    content = {name: getattr(row, name) for name in SetRow.__slots__ if name != "name"}
    return SetStatus(set=row.name, **content)

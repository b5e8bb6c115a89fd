"""How the artifact store is, collecting what nothing names, and reading everything again."""

from datetime import datetime

from fastapi import APIRouter
from pydantic import BaseModel, Field

from mailboat_controller.api.context import Context
from mailboat_controller.api.identity import Operator, Reader
from mailboat_controller.artifacts import scrub

LISTED_MAX = 1000  # of what waits, in one answer

router = APIRouter(prefix="/v1/artifacts", tags=["artifacts"])


class ScrubPass(BaseModel):
    """One reading of everything; ``finished_at`` is none while it is on its way."""

    started_at: datetime
    finished_at: datetime | None
    running: bool
    after: str
    checked: int
    checked_bytes: int
    damaged: int


class NeededArtifact(BaseModel):
    digest: str
    length: int
    needed_by: str


class DamagedArtifact(NeededArtifact):
    problem: str
    found_at: datetime


class ArtifactStatus(BaseModel):
    """Sizes in bytes. ``upload_again`` lists the first of what is missing."""

    store: str
    place: str
    artifacts: int
    bytes: int
    missing: int
    upload_again: list[NeededArtifact]
    damaged: list[DamagedArtifact]
    quarantined: int
    quarantined_bytes: int
    unnamed: int
    unnamed_bytes: int
    scrub: ScrubPass | None


class CollectionOrder(BaseModel):
    dry_run: bool = Field(default=False, description="only say what would be removed")


class WaitingArtifact(BaseModel):
    """Named by nothing; collected after ``until`` unless something names it by then."""

    digest: str
    until: datetime


class Collection(BaseModel):
    dry_run: bool
    removed: int
    removed_bytes: int
    due: list[str] = Field(description="what is, or with dry_run would be, removed: the first")
    due_bytes: int
    waiting: list[WaitingArtifact]
    waiting_bytes: int


@router.get("/status")
def artifact_status(_reader: Reader, context: Context) -> ArtifactStatus:
    """What is here, what is missing or damaged and must be uploaded again, and the last scrub."""
    return ArtifactStatus.model_validate(context.artifact_care.status())


@router.post("/garbage")
def collect_artifacts(order: CollectionOrder, operator: Operator, context: Context) -> Collection:
    """Remove what nothing has named for the grace period; it is done every hour anyhow."""
    done = context.artifact_care.collect(actor=str(operator), dry_run=order.dry_run)
    found = done.found
    waiting = sorted(found.waiting.items(), key=lambda each: (each[1], each[0]))
    return Collection(
        dry_run=order.dry_run,
        removed=done.removed,
        removed_bytes=done.removed_bytes,
        due=[entry.digest for entry in found.due[:LISTED_MAX]],
        due_bytes=sum(entry.length for entry in found.due),
        waiting=[WaitingArtifact(digest=digest, until=end) for digest, end in waiting[:LISTED_MAX]],
        waiting_bytes=found.waiting_bytes,
    )


@router.get("/scrub")
def get_scrub(_reader: Reader, context: Context) -> ScrubPass | None:
    """How far the newest reading of everything is."""
    content = scrub.as_json(context.artifact_care.newest_scrub())
    return None if content is None else ScrubPass.model_validate(content)


@router.post("/scrub", status_code=202)
def begin_scrub(operator: Operator, context: Context) -> ScrubPass:
    """Begin to read everything again, unless that is on its way."""
    begun = context.artifact_care.begin_scrub(actor=str(operator))
    return ScrubPass.model_validate(scrub.as_json(begun))

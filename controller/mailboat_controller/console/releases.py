"""Releases: what is in each, who signed and approved it, what became of it, what differs."""

from typing import Annotated

from fastapi import APIRouter, Form, Query, Request, Response

from mailboat_controller import rollout_facts
from mailboat_controller.api.context import Context
from mailboat_controller.console import confirm as confirmation
from mailboat_controller.console.asked import EmptyIsNone, PageNumber
from mailboat_controller.console.auth import Approver, Viewer
from mailboat_controller.console.flash import Flash, see_other
from mailboat_controller.console.model_card import model_cards
from mailboat_controller.console.render import page, query
from mailboat_controller.console.session import PREFIX
from mailboat_controller.releases import standing as release_standing
from mailboat_controller.releases.approval_review import plan_sentences
from mailboat_controller.releases.release_diff import Part, counted, release_diff
from mailboat_controller.releases.standing import ReleaseStanding, subject_of
from mailboat_controller.store import deliveries, outcomes, releases, rollouts
from mailboat_controller.store.releases import ReleaseRow
from mailboat_controller.store.transaction import Transaction
from mailboat_controller.trust import held_trust
from mailboat_schemas.errors import NotFound
from mailboat_schemas.names import ModelName, Version

ROWS = 50  # of a page
COMPARED_MAX = 100  # versions to choose from, the newest

router = APIRouter()


@router.get("/releases")
def list_releases(
    request: Request,
    _viewer: Viewer,
    context: Context,
    model: Annotated[ModelName | None, EmptyIsNone] = None,
    number: PageNumber = 1,
) -> Response:
    """The newest first."""
    first = (number - 1) * ROWS
    with context.store.read() as tx:
        names = releases.names(tx)
        wanted = [each for each in reversed(names) if model is None or each.model == model]
        shown = wanted[first : first + ROWS]
        rows = [row for each in shown if (row := releases.by_digest(tx, each.digest)) is not None]
        found = release_standing.standings(tx, held_trust.read(tx), rows) if rows else {}
    return page(
        request,
        "releases.html",
        rows=[(row, row.parsed(), found[row.digest]) for row in rows],
        total=len(wanted),
        models=sorted({each.model for each in names}),
        model=model,
        newer=query(model=model, page=number - 1) if number > 1 else None,
        older=query(model=model, page=number + 1) if len(wanted) > first + ROWS else None,
    )


@router.get("/releases/{model}/{version}")
def show_release(
    model: ModelName, version: Version, request: Request, _viewer: Viewer, context: Context
) -> Response:
    with context.store.read() as tx:
        row = _row(tx, model, version)
        standing = release_standing.standings(tx, held_trust.read(tx), [row])[row.digest]
        mine = [each for each in rollouts.every(tx, model) if each.rollout.digest == row.digest]
        came = deliveries.of_release(tx, row.digest)
        became = outcomes.count_by_outcome(tx, row.digest)
        others = _others(tx, row)
    document = row.parsed()
    return page(
        request,
        "release.html",
        row=row,
        document=document,
        standing=standing,
        plan=() if standing.plan is None else tuple(plan_sentences(standing.plan)),
        rollouts=[rollout_facts.summary(each) for each in reversed(mine)],
        came=came,
        became=became,
        others=others,
        cards=model_cards(document, context.artifacts),
        can_reject=standing.standing is not ReleaseStanding.APPROVED,
        named=subject_of(model, version),
    )


@router.get("/releases/{model}/{version}/diff")
def show_diff(
    model: ModelName,
    version: Version,
    request: Request,
    _viewer: Viewer,
    context: Context,
    since: Annotated[Version | None, EmptyIsNone, Query(alias="from")] = None,
    every: bool = False,
) -> Response:
    """What changed from another version (``from``; else the one accepted before) to this one.
    ``every``: also what did not."""
    with context.store.read() as tx:
        after = _row(tx, model, version)
        others = _others(tx, after)
        if since is None:
            since = others[0] if others else version
        before = _row(tx, model, since)
        rows = {row.digest: row for row in (before, after)}
        trust = held_trust.read(tx)
        standings = release_standing.standings(tx, trust, rows.values())
        became = {digest: outcomes.count_by_outcome(tx, digest) for digest in rows}
    changes = release_diff(before.parsed(), after.parsed(), unchanged=every)
    return page(
        request,
        "release_diff.html",
        before=before,
        after=after,
        standings=standings,
        became=became,
        changes=changes,
        counts=counted(changes),
        parts_of_release=[each.value for each in Part],
        others=others,
        every=every,
    )


@router.post("/releases/{model}/{version}/reject")
def reject_release(
    model: ModelName,
    version: Version,
    approver: Approver,
    context: Context,
    confirm: Annotated[str, Form(max_length=256)] = "",
    reason: Annotated[str, Form(max_length=2 * confirmation.REASON_CHARS_MAX)] = "",
) -> Response:
    """An approver's no, as the API records it. A yes takes a signature, which no page can give."""
    said = confirmation.check(confirm, subject_of(model, version), reason)
    with context.store.transaction() as tx:
        row, trust = _row(tx, model, version), held_trust.read(tx)
        release_standing.reject(tx, trust, row, actor=str(approver), reason=said, now=context.now())
    told = Flash("ok", f"{model} {version} is rejected.")
    return see_other(f"{PREFIX}/releases/{model}/{version}", told)


def _row(tx: Transaction, model: str, version: str) -> ReleaseRow:
    row = releases.by_version(tx, model, version)
    if row is None:
        raise NotFound(
            f"There is no release {model} {version}.",
            next_step="`mailboat release list` shows those there are.",
        )
    return row


def _others(tx: Transaction, row: ReleaseRow) -> list[str]:
    """Versions of the same model: those accepted before, the newest first, then the later ones."""
    every = [each for each in releases.names(tx, row.model) if each.digest != row.digest]
    before = [each.version for each in every if each.accepted_at <= row.accepted_at]
    after = [each.version for each in every if each.accepted_at > row.accepted_at]
    return (before[::-1] + after)[:COMPARED_MAX]

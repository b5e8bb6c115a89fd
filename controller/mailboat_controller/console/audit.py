"""The audit log: who did what, when and why, and whether its chain holds."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from mailboat_controller.api import audit as audit_api
from mailboat_controller.api.context import Context
from mailboat_controller.api.limits import NUMBER_MAX, PRINTED
from mailboat_controller.console.auth import Viewer
from mailboat_controller.console.render import page, query
from mailboat_controller.store import audit
from mailboat_controller.store.audit import Wanted

ROWS = 100  # of a page

router = APIRouter()

Text = Annotated[str, Query(max_length=256, pattern=PRINTED)]


@router.get("/audit")
def show_audit(
    request: Request,
    _viewer: Viewer,
    context: Context,
    actor: Text = "",
    action: Text = "",
    subject: Text = "",
    before: Annotated[int | None, Query(ge=1, le=NUMBER_MAX)] = None,
) -> Response:
    """The newest first. ``action`` with the dot at its end is every action of a noun."""
    wanted = Wanted(actor=actor or None, action=action or None, subject=subject or None)
    with context.store.read() as tx:
        rows = audit.newest_page(tx, before=before, limit=ROWS + 1, wanted=wanted)
        entries, head = audit.head(tx)
    shown = tuple(reversed(rows))[:ROWS]
    kept = {"actor": actor, "action": action, "subject": subject}
    return page(
        request,
        "audit.html",
        rows=shown,
        entries=entries,
        head=head,
        actor=actor,
        action=action,
        subject=subject,
        newest=query(**kept) if before is not None else None,
        older=query(**kept, before=shown[-1].sequence) if len(rows) > ROWS else None,
    )


@router.get("/audit/chain")
def show_chain(request: Request, viewer: Viewer, context: Context) -> Response:
    """Reads the whole log, so for one person at a time, as at the API.

    Raises:
        RateLimited: somebody else is just asking.
    """
    return page(request, "audit_chain.html", found=audit_api.verify(viewer, context))

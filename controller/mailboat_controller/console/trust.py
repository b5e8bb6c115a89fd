"""Trust: who may sign what, what runs out when, and what waits for a person's key."""

from fastapi import APIRouter, Request, Response

from mailboat_controller.api import trust as trust_api
from mailboat_controller.api.context import Context
from mailboat_controller.console.auth import Viewer
from mailboat_controller.console.render import page
from mailboat_controller.releases import standing as release_standing
from mailboat_controller.releases.standing import ReleaseStanding
from mailboat_controller.store import audit, enrolment_requests, releases
from mailboat_controller.store.audit import Wanted
from mailboat_controller.store.releases import ReleaseRow
from mailboat_controller.store.transaction import Transaction
from mailboat_controller.trust import expiry, held_trust
from mailboat_controller.trust.expiry import CertificateStatus, Level, RoleStatus

RELEASES_LOOKED_AT_MAX = 50  # the newest; who is not approved among them waits for somebody
ENROLMENTS_MAX = 50
ENTRIES = 30

router = APIRouter()


@router.get("/trust")
def show_trust(request: Request, _viewer: Viewer, context: Context) -> Response:
    roles, certificates = trust_api.statuses(context)
    both: tuple[RoleStatus | CertificateStatus, ...] = (*roles, *certificates)
    with context.store.read() as tx:
        unapproved = _unapproved(tx)
        enrolments = enrolment_requests.pending(tx, context.now(), limit=ENROLMENTS_MAX + 1)
        entries = audit.newest_page(tx, limit=ENTRIES, wanted=Wanted(action="trust."))
    return page(
        request,
        "trust.html",
        roles=roles,
        certificates=certificates,
        due=[each for each in both if each.level is not Level.OK],
        worst=expiry.worst(both),
        unapproved=unapproved,
        enrolments=enrolments[:ENROLMENTS_MAX],
        more_enrolments=len(enrolments) > ENROLMENTS_MAX,
        entries=tuple(reversed(entries)),
    )


def _unapproved(tx: Transaction) -> list[ReleaseRow]:
    """Releases that CI signed and nobody has decided about, the newest first."""
    names = releases.names(tx)[-RELEASES_LOOKED_AT_MAX:]
    rows = [row for each in names if (row := releases.by_digest(tx, each.digest)) is not None]
    found = release_standing.standings(tx, held_trust.read(tx), rows) if rows else {}
    return [row for row in reversed(rows) if found[row.digest].standing is ReleaseStanding.RELEASED]

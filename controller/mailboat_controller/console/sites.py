"""Sites: how the link to each stands, what a cut there means, and since when it is cut."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from mailboat_controller.api.context import Context
from mailboat_controller.console.asked import PageNumber
from mailboat_controller.console.auth import Viewer
from mailboat_controller.console.render import page, query
from mailboat_controller.sites.link_state import Link
from mailboat_controller.store import audit, credentials, site_orders, sites
from mailboat_controller.store.audit import Wanted
from mailboat_controller.store.sites import SiteStanding
from mailboat_schemas.enrolment import Kind
from mailboat_schemas.names import Label

ROWS = 50  # of a page
ENTRIES = 30  # of the audit log, about one site

_URGENCY = (Link.CUT, Link.UNCONFIRMED, Link.NEVER, Link.CONNECTED)

router = APIRouter()


@router.get("/sites")
def list_sites(
    request: Request,
    _viewer: Viewer,
    context: Context,
    name: Annotated[str, Query(max_length=63)] = "",
    number: PageNumber = 1,
) -> Response:
    """Cut ones first; ``name``: those whose name has this in it."""
    with context.store.read() as tx:
        every = sites.standings(tx, context.now())
        ends = credentials.ends_by_name(tx, Kind.SITE)
    found = sorted((each for each in every if name in each.row.name), key=_order)
    first = (number - 1) * ROWS
    return page(
        request,
        "sites.html",
        rows=found[first : first + ROWS],
        total=len(found),
        everything=len(every),
        counts=[(link, sum(each.state.link is link for each in every)) for link in _URGENCY],
        ends=ends,
        name=name,
        newer=query(name=name, page=number - 1) if number > 1 else None,
        older=query(name=name, page=number + 1) if len(found) > first + ROWS else None,
    )


@router.get("/sites/{name}")
def show_site(name: Label, request: Request, _viewer: Viewer, context: Context) -> Response:
    with context.store.read() as tx:
        found = sites.standing(tx, name, context.now())
        ends = credentials.ends_by_name(tx, Kind.SITE)
        ordered = site_orders.newest(tx, name)
        about = (name, f"site:{name}")
        entries = audit.newest_page(
            tx, limit=ENTRIES, wanted=Wanted(action="site."), subjects=about
        )
    return page(
        request,
        "site.html",
        site=found,
        row=found.row,
        ends=ends.get(name),
        ordered=ordered,
        entries=tuple(reversed(entries)),
    )


def _order(site: SiteStanding) -> tuple[bool, int, str]:
    """What is not as it should be comes first."""
    expected = site.cut_is_expected and site.state.link is Link.CUT
    return expected, _URGENCY.index(site.state.link), site.row.name

"""Figures of releases: do they succeed, how soon is a bad one undone, who runs the current one, and
how often people had to step in. As `docs/dashboards.md` defines them; Grafana has the history."""

from datetime import timedelta

from fastapi import APIRouter, Request, Response

from mailboat_controller.api.context import Context
from mailboat_controller.console import kpi_figures
from mailboat_controller.console.auth import Viewer
from mailboat_controller.console.render import page
from mailboat_controller.store import audit
from mailboat_controller.store.audit import Wanted

DAYS = 30  # that rollouts and what people did are counted by
ENTRIES_MAX = 5000  # of the audit log that are counted, the newest

router = APIRouter()


@router.get("/kpis")
def show_kpis(request: Request, _viewer: Viewer, context: Context) -> Response:
    now = context.now()
    since = (now - timedelta(days=DAYS - 1)).replace(hour=0, minute=0, second=0, microsecond=0)
    with context.store.read() as tx:
        moves = audit.newest_page(
            tx, limit=ENTRIES_MAX, wanted=Wanted(action="rollout.", since=since)
        )
    state = context.fleet_state()
    return page(
        request,
        "kpis.html",
        read_at=None if state is None else state.read_at,
        releases=() if state is None else kpi_figures.by_release(state),
        assigned=() if state is None else state.assigned,
        interventions=() if state is None else kpi_figures.interventions(state),
        days=kpi_figures.by_day(moves, since, now),
        days_cut=len(moves) == ENTRIES_MAX,
        span_days=DAYS,
    )

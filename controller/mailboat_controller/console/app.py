"""The console as an application of its own, mounted at ``/console``: pages and problem pages, where
the API answers JSON. The gate, the limits and the identity in front of it are the API's."""

from fastapi import APIRouter, Depends, FastAPI

from mailboat_controller.api.context import ApiContext
from mailboat_controller.console import (
    audit,
    csrf,
    device_actions,
    devices,
    error_codes,
    grid,
    kpis,
    login,
    overview,
    problem_pages,
    releases,
    rollouts,
    sites,
    static_files,
    trust,
    updates,
)
from mailboat_controller.console.counted import Counter
from mailboat_controller.console.fleet_picture import FleetPicture
from mailboat_controller.console.headers import SecurityHeaders
from mailboat_controller.console.live import Live
from mailboat_controller.console.rollout_looks import RolloutLooks

# Every page's router; a path in it is below /console.
ROUTERS: tuple[APIRouter, ...] = (
    login.router,
    static_files.router,
    overview.router,
    grid.router,
    updates.router,
    error_codes.router,
    devices.router,
    device_actions.router,
    releases.router,
    rollouts.router,
    sites.router,
    trust.router,
    audit.router,
    kpis.router,
)


def make_console() -> FastAPI:
    """The pages; nothing behind them until ``state.context`` is set."""
    console = FastAPI(
        title="Mailboat console",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        # Of every page: nobody can forget it in a new one.
        dependencies=[Depends(csrf.guard)],
    )
    console.state.failures = login.Failures()
    console.state.looks = RolloutLooks()
    for router in ROUTERS:
        console.include_router(router)
    problem_pages.install(console)
    console.add_middleware(SecurityHeaders)
    return console


def furnish(console: FastAPI, context: ApiContext) -> None:
    """Put a controller behind the pages."""
    fleet = FleetPicture(context.store, context.reach)
    console.state.context = context
    console.state.fleet = fleet
    console.state.counter = Counter(context)
    console.state.columns = grid.Columns()
    console.state.live = Live(context, fleet)

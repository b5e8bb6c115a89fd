"""The application: routers, error answers, limits."""

from importlib.metadata import version

from fastapi import FastAPI
from fastapi.responses import RedirectResponse

from mailboat_controller.api import (
    access_tokens,
    artifact_care,
    artifacts,
    audit,
    classes,
    content_keys,
    deltas,
    described,
    device_logs,
    device_timeline,
    devices,
    drills,
    enrolment,
    explain,
    fleet_documents,
    gitops,
    health,
    manifests,
    mlflow,
    overrides,
    plans,
    problems,
    quarantine,
    releases,
    renewal,
    retirement,
    rollouts,
    site_access,
    sites,
    submissions,
    traces,
    trust,
    webhooks,
)
from mailboat_controller.api.context import ApiContext
from mailboat_controller.api.gate import Gate
from mailboat_controller.api.idempotency import Idempotency
from mailboat_controller.api.limits import BodyLimit, HeadAsGet
from mailboat_controller.console.app import furnish, make_console
from mailboat_controller.console.session import PREFIX


def build_app(context: ApiContext) -> FastAPI:
    """Serve it with `https_server.HttpsServer`, which tells it who the client is."""
    app = make_app()
    app.state.context = context
    furnish(app.state.console, context)
    return app


def make_app() -> FastAPI:
    """The routes and their schema; nothing behind them until it has a context."""
    app = FastAPI(
        title="Mailboat controller",
        version=version("mailboat"),
        # Their pages load scripts from somebody else's server.
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        generate_unique_id_function=described.operation_id,
    )
    nouns = (
        access_tokens,
        artifact_care,
        artifacts,
        audit,
        classes,
        content_keys,
        deltas,
        device_logs,
        device_timeline,
        devices,
        drills,
        enrolment,
        explain,
        fleet_documents,
        gitops,
        health,
        manifests,
        mlflow,
        overrides,
        plans,
        quarantine,
        releases,
        renewal,
        retirement,
        rollouts,
        site_access,
        sites,
        submissions,
        traces,
        trust,
        webhooks,
    )
    for noun in nouns:
        app.include_router(noun.router)
    app.state.console = make_console()
    app.mount(PREFIX, app.state.console)
    app.add_api_route("/", _to_console, include_in_schema=False)
    app.add_api_route(PREFIX, _to_console, include_in_schema=False)
    # The last added is the first that a request meets.
    app.add_middleware(Idempotency)
    app.add_middleware(BodyLimit)
    app.add_middleware(HeadAsGet)
    app.add_middleware(Gate)
    problems.install(app)
    described.describe(app, [noun.router for noun in nouns])
    return app


def _to_console() -> RedirectResponse:
    return RedirectResponse(f"{PREFIX}/", status_code=303)

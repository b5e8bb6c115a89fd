"""The application: routers, error answers, limits."""

from importlib.metadata import version

from fastapi import FastAPI

from mailboat_controller.api import (
    access_tokens,
    artifact_care,
    artifacts,
    audit,
    classes,
    content_keys,
    deltas,
    device_logs,
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
from mailboat_controller.api.limits import BodyLimit, HeadAsGet


def build_app(context: ApiContext) -> FastAPI:
    """Serve it with `https_server.HttpsServer`, which tells it who the client is."""
    app = make_app()
    app.state.context = context
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
        responses=dict(problems.RESPONSES),
    )
    for noun in (
        access_tokens,
        artifact_care,
        artifacts,
        audit,
        classes,
        content_keys,
        deltas,
        device_logs,
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
    ):
        app.include_router(noun.router)
    # The last added is the first that a request meets.
    app.add_middleware(BodyLimit)
    app.add_middleware(HeadAsGet)
    app.add_middleware(Gate)
    problems.install(app)
    problems.describe(app)
    return app

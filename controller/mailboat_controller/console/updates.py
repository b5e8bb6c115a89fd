"""The stream's address, and whether somebody is still logged in."""

import asyncio
from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from mailboat_controller.api.authentication import authenticate, certificate_of
from mailboat_controller.api.context import ApiContext, Context
from mailboat_controller.api.limits import NUMBER_MAX
from mailboat_controller.console import event_stream
from mailboat_controller.console.auth import Viewer
from mailboat_controller.console.event_stream import EventStream
from mailboat_controller.console.live import DEVICE, FLEET, Client, Live
from mailboat_controller.console.visitor import console_visitor
from mailboat_controller.https_server import STOPPING
from mailboat_schemas.errors import MalformedPayload, NotPermitted, Transient
from mailboat_schemas.names import is_label

router = APIRouter()


@router.get("/live")
async def live(
    request: Request,
    viewer: Viewer,
    context: Context,
    watch: Annotated[str, Query(max_length=80)] = "",
    since: Annotated[int | None, Query(ge=0, le=NUMBER_MAX)] = None,
) -> Response:
    """What changes, until the page is closed.

    Args:
        since: when the page was made, in milliseconds by our clock.
    """
    wanted = watch in ("", FLEET) or (watch.startswith(DEVICE) and is_label(watch[len(DEVICE) :]))
    if not wanted or event_stream.MEDIA_TYPE not in request.headers.get("accept", ""):
        raise MalformedPayload(
            "This address is a stream of events, for pages of the console.",
            next_step="open the console; it asks for it.",
        )
    hub: Live = request.app.state.live
    extensions = request.scope.get("extensions") or {}
    hub.refuse_too_many(str(viewer))
    stopping = extensions.get(STOPPING) or asyncio.Event()
    client = Client(watch, since, whose=str(viewer))
    return EventStream(hub.stream(client, stopping, _still(request, context)))


@router.get("/session", status_code=204)
async def still_logged_in(request: Request, viewer: Viewer) -> None:
    """For a script whose stream broke: is it the controller, the session, or too many pages?"""
    hub: Live = request.app.state.live
    hub.refuse_too_many(str(viewer))


def _still(request: Request, context: ApiContext) -> Callable[[], bool]:
    """Whether whoever began the stream would be let in again, with what they came with."""
    scope = request.scope
    authorization = [value for name, value in scope["headers"] if name == b"authorization"]
    certificate = certificate_of(scope)
    visitor = console_visitor(scope, authorization, certificate)

    def still() -> bool:
        try:
            if visitor is not None:
                return visitor.identity(context) is not None
            return authenticate(authorization, certificate, context) is not None
        except NotPermitted:
            return False
        except Transient:
            return True  # the database is busy; that ends nobody's session

    return still

"""The stream's address, and whether somebody is still logged in."""

import asyncio
from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse

from mailboat_controller.api.context import ApiContext, Context
from mailboat_controller.api.limits import NUMBER_MAX
from mailboat_controller.console import session
from mailboat_controller.console.auth import Viewer
from mailboat_controller.console.live import DEVICE, FLEET, Client, Live
from mailboat_controller.https_server import STOPPING
from mailboat_schemas.errors import MalformedPayload, NotPermitted, Transient
from mailboat_schemas.names import is_label

EVENTS = "text/event-stream"

router = APIRouter()


@router.get("/live")
async def live(
    request: Request,
    _viewer: Viewer,
    context: Context,
    watch: Annotated[str, Query(max_length=80)] = "",
    since: Annotated[int | None, Query(ge=0, le=NUMBER_MAX)] = None,
) -> Response:
    """What changes, until the page is closed.

    Args:
        since: when the page was made, in milliseconds by our clock.
    """
    wanted = watch in ("", FLEET) or (watch.startswith(DEVICE) and is_label(watch[len(DEVICE) :]))
    if not wanted or EVENTS not in request.headers.get("accept", ""):
        raise MalformedPayload(
            "This address is a stream of events, for pages of the console.",
            next_step="open the console; it asks for it.",
        )
    hub: Live = request.app.state.live
    extensions = request.scope.get("extensions") or {}
    hub.refuse_too_many()
    stopping = extensions.get(STOPPING) or asyncio.Event()
    return StreamingResponse(
        hub.stream(Client(watch, since), stopping, _still(request, context)),
        media_type=EVENTS,
        # A proxy that gathers the answer first would keep everything back.
        headers={"X-Accel-Buffering": "no"},
    )


@router.get("/session", status_code=204)
def still_logged_in(_viewer: Viewer) -> None:
    """For a script whose stream broke: is it the controller, or the session?"""


def _still(request: Request, context: ApiContext) -> Callable[[], bool]:
    secret = session.secret_of(request)

    def still() -> bool:
        if not secret:
            return True  # came with a proxy's certificate; a new stream asks again
        try:
            return session.person_of(secret, context, active=False) is not None
        except NotPermitted:
            return False
        except Transient:
            return True  # the database is busy; that ends nobody's session

    return still

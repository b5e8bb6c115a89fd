"""The answer that a stream of events is: it ends when its reader no longer reads."""

import asyncio
from collections.abc import AsyncGenerator

from starlette.responses import StreamingResponse
from starlette.types import Send

MEDIA_TYPE = "text/event-stream"
# A laptop that was closed takes nothing and says nothing; TCP would wait for a quarter of an hour.
SEND_SECONDS_MAX = 30.0


class EventStream(StreamingResponse):
    """Ends ``events`` itself, at once, however the answer ends: their place is somebody else's."""

    def __init__(self, events: AsyncGenerator[bytes]) -> None:
        # A proxy that gathers the answer first would keep everything back.
        super().__init__(events, media_type=MEDIA_TYPE, headers={"X-Accel-Buffering": "no"})
        self._events = events

    async def stream_response(self, send: Send) -> None:
        async def sending(message: object) -> None:
            async with asyncio.timeout(SEND_SECONDS_MAX):
                await send(message)  # type: ignore[arg-type]

        try:
            await super().stream_response(sending)
        except TimeoutError:
            return  # the server closes a connection whose answer has no end
        finally:
            await self._events.aclose()

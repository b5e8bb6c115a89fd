"""The broker while the controller serves: it lets in whom the registry lets in, and it runs."""

import asyncio
import time
from collections.abc import Callable
from datetime import datetime

import structlog

from mailboat_controller.broker.embedded import MosquittoBroker
from mailboat_controller.broker.guard import BrokerGuard
from mailboat_controller.resting import rest_seconds
from mailboat_controller.wake import Wake
from mailboat_schemas.errors import MailboatError

BROKER_LOOK_SECONDS = 2.0
ACCESS_LOOK_SECONDS = 2.0  # until a credential that was revoked on this disk is cut off

_log = structlog.get_logger(__name__)


class BrokerCare:
    """`keep_access` and `keep_running` until they are cancelled."""

    def __init__(
        self,
        guard: BrokerGuard,
        broker: MosquittoBroker | None,
        *,
        host: str,
        port: int,
        now: Callable[[], datetime],
    ) -> None:
        """``broker`` is the embedded one; None where the operator runs it."""
        self._guard = guard
        self._broker = broker
        self._host = host
        self.port = port if broker is None else broker.port
        self._now = now
        self._changed = Wake()  # somebody is to be let in or cut off

    def access_changed(self) -> None:
        """For any thread. What has changed is in force when this returns, if it can be."""
        try:
            self._guard.refresh(self._now())
        except (MailboatError, OSError) as error:
            # Who was let in or cut off is in the registry; the loop goes on trying.
            _log.warning("the broker does not go by the registry yet", problem=str(error))
        self._changed.set()

    async def keep_access(self) -> None:
        """Whatever changed the registry, from here or from a command on this disk."""
        while True:
            started = time.monotonic()
            await asyncio.to_thread(self._guard.look, self._host, self.port, self._now())
            await asyncio.sleep(rest_seconds(started, 0))
            await self._changed.wait(ACCESS_LOOK_SECONDS)

    async def keep_running(self) -> None:
        """An embedded broker that died is started again; devices and we come back by ourselves."""
        broker = self._broker
        while broker is not None:
            await asyncio.sleep(BROKER_LOOK_SECONDS)
            problem = broker.problem()
            if problem is None:
                continue
            _log.error("the embedded broker died; starting it again", problem=problem)
            try:
                await asyncio.to_thread(broker.start)
            except MailboatError as error:
                _log.error("the embedded broker does not start", problem=str(error))

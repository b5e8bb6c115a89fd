"""What the leader looks after besides rollouts: old rows, the processes that take messages in, and
whether the broker can be heard."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from types import MappingProxyType
from typing import Any

import structlog

from mailboat_controller import leading
from mailboat_controller.auditing import checking
from mailboat_controller.config import ControllerSettings
from mailboat_controller.mqtt.link import Link
from mailboat_controller.presence import BrokerReach
from mailboat_controller.sites import bridge_news
from mailboat_controller.store import (
    evidence_retention,
    idempotency,
    ingest_partitions,
    retention,
    trust_roles,
)
from mailboat_controller.store.engine import Store
from mailboat_controller.store.ingest_partitions import PartitionRow
from mailboat_controller.store.locks import HeldLock
from mailboat_controller.store.retention import LEVEL_DAY, LEVEL_HOUR, Step
from mailboat_controller.store.transaction import Transaction
from mailboat_controller.trust import expiry
from mailboat_controller.webhooks import expiring
from mailboat_schemas.errors import MailboatError, OperatorNeeded

PARTITION_LOOK_SECONDS = 1.0
# A process tells that it is there every few seconds; after so long somebody should look.
PARTITION_SILENT_MAX = timedelta(seconds=30)
REACH_LOOK_SECONDS = 2.0
RETENTION_LOOK_SECONDS = 3600.0
# Between two steps, for each second that the one before took: others write meanwhile.
RETENTION_REST_FACTOR = 9.0
RETENTION_REST_SECONDS_MIN = 0.05

_log = structlog.get_logger(__name__)


class Upkeep:
    """Loops of the leader, each for ever."""

    def __init__(
        self,
        *,
        store: Store,
        settings: ControllerSettings,
        held: HeldLock,
        changed: Callable[[], None],
        now: Callable[[], datetime],
        more: Mapping[str, Callable[[], Coroutine[Any, Any, None]]] = MappingProxyType({}),
    ) -> None:
        """
        Args:
            changed: called when a rollout may decide otherwise.
            more: other loops of the leader, by name.
        """
        self._store = store
        self._settings = settings
        self._held = held
        self._changed = changed
        self._now = now
        self._partitions: tuple[PartitionRow, ...] = ()
        self._more = more
        self.reach = BrokerReach(now())

    async def run(self, link: Link) -> None:
        """
        Raises:
            LockLost: another controller may lead from here on; end this one.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(leading.keep(self._held), name="lead")
            group.create_task(self._watch_reach(link), name="reach")
            group.create_task(self._thin(), name="retention")
            for name, loop in self._more.items():
                group.create_task(loop(), name=name)
            if self._settings.ingest.partitions:
                group.create_task(self._watch_partitions(), name="partitions")

    def leads(self) -> bool:
        return leading.is_held(self._held)

    def absent_partitions(self) -> tuple[int, ...]:
        """Those whose devices nobody takes messages from, as far as we know."""
        silent_since = self._now() - PARTITION_SILENT_MAX
        there = {
            row.partition
            for row in self._partitions
            if row.beat_at >= silent_since and row.partitions == self._settings.ingest.partitions
        }
        return tuple(n for n in range(self._settings.ingest.partitions) if n not in there)

    async def _watch_reach(self, link: Link) -> None:
        forgotten, doubted = 0, 0
        while True:
            if link.connections != doubted and await asyncio.to_thread(self._doubt_sites):
                doubted = link.connections
            if link.sessions_lost != forgotten:
                forgotten = link.sessions_lost
                self.reach.forgot(self._now())
            self.reach.look(connected=link.connected, at=self._now())
            await asyncio.sleep(REACH_LOOK_SECONDS)

    def _doubt_sites(self) -> bool:
        """What we knew of bridges was of before this connection; False: try again."""
        try:
            bridge_news.doubt(self._store, self._now())
        except MailboatError as error:
            _log.warning("links to sites are not looked at again yet", problem=str(error))
            return False
        return True

    async def _watch_partitions(self) -> None:
        """Their news of rollouts come by the database: what they changed is looked at at once."""
        seen: dict[int, int] = {}
        while True:
            try:
                rows = await asyncio.to_thread(self._read_partitions)
                changes = {row.partition: row.changes for row in rows}
                if changes != seen:
                    self._changed()
                self._partitions, seen = rows, changes
            except MailboatError as error:
                _log.warning("the ingest processes are not seen", problem=str(error))
            await asyncio.sleep(PARTITION_LOOK_SECONDS)

    def _read_partitions(self) -> tuple[PartitionRow, ...]:
        with self._store.read() as tx:
            return ingest_partitions.every(tx)

    async def _thin(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self._warn_of_ends)
                await asyncio.to_thread(self._sign_audit_head)
                for step in self._steps():
                    while await self._one(step):
                        pass
            except MailboatError as error:
                _log.warning("old rows stay for now", problem=str(error))
            await asyncio.sleep(RETENTION_LOOK_SECONDS)

    async def _one(self, step: Callable[[Transaction], Step]) -> bool:
        started = time.monotonic()
        done = await asyncio.to_thread(self._commit, step)
        took_seconds = time.monotonic() - started
        await asyncio.sleep(max(RETENTION_REST_SECONDS_MIN, RETENTION_REST_FACTOR * took_seconds))
        return done.more

    def _commit(self, step: Callable[[Transaction], Step]) -> Step:
        with self._store.device_transaction() as tx:
            return step(tx)

    def _steps(self) -> Sequence[Callable[[Transaction], Step]]:
        kept, now = self._settings.retention, self._now()
        return (
            partial(retention.strip_events, older_than=now - kept.span("event_full_days")),
            partial(retention.drop_events, older_than=now - kept.span("event_days")),
            partial(
                retention.merge_telemetry,
                level=LEVEL_HOUR,
                older_than=now - kept.span("window_days"),
            ),
            partial(
                retention.merge_telemetry, level=LEVEL_DAY, older_than=now - kept.span("hour_days")
            ),
            partial(retention.drop_telemetry, older_than=now - kept.span("day_days")),
            partial(retention.drop_fleet_sums, older_than=now - kept.span("day_days")),
            *(
                partial(drop, older_than=now - kept.span("event_full_days"))
                for drop in (
                    evidence_retention.drop_redemptions,
                    evidence_retention.drop_exit_evidence,
                )
            ),
            partial(
                evidence_retention.drop_drill_results, older_than=now - kept.span("event_days")
            ),
            partial(idempotency.drop_ended, now=now),
        )

    def _sign_audit_head(self) -> None:
        kept = self._settings
        try:
            checking.keep_head(self._store, kept.keys_dir, fleet=kept.fleet, now=self._now())
        except OperatorNeeded as error:  # somebody has to look; old rows go on being thinned
            _log.error("the audit log's head is not signed", code=error.code, problem=str(error))

    def _warn_of_ends(self) -> None:
        with self._store.transaction() as tx:
            ingest_partitions.forget_from(tx, self._settings.ingest.partitions)
            roles = trust_roles.newest(tx)
            expiring.tell(tx, expiry.role_statuses(roles, self._now()), self._now())
        expiry.warn(roles, self._now())  # as good a place as any for what is said once an hour

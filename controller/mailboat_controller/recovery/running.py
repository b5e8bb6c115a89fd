"""A recovery on its way: the broker is heard, and only then is anything said.

`serve` does this before it opens anything else, so neither an old manifest nor an old answer leaves
a restored controller: not over MQTT, not over HTTPS.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import structlog

from mailboat_controller.authority.online import OnlineKeys
from mailboat_controller.broker.embedded import MosquittoBroker
from mailboat_controller.broker.guard import BrokerGuard
from mailboat_controller.config import ControllerSettings
from mailboat_controller.ground import Ground, open_ground
from mailboat_controller.ingest.batch import ingest
from mailboat_controller.mqtt.incoming import Incoming
from mailboat_controller.mqtt.retained import listen
from mailboat_controller.pki.client_tls import client_context
from mailboat_controller.pki.issuing import Authority
from mailboat_controller.recovery import hearsay, learning
from mailboat_controller.recovery.hearsay import Hearsay
from mailboat_controller.recovery.learning import Learned
from mailboat_controller.store import classes, devices, recoveries
from mailboat_controller.store.engine import Store
from mailboat_controller.store.recoveries import RecoveryRow
from mailboat_controller.trust import held_trust

BATCH_MESSAGES_MAX = 500
# Once the manifest of every class was heard: what else is retained comes in one go.
QUIET_SECONDS = 3.0

_log = structlog.get_logger(__name__)


async def open_when_recovered(
    settings: ControllerSettings, now: Callable[[], datetime], stopped: asyncio.Event
) -> Ground | None:
    """The ground, opened once no recovery is pending any more; None: we were stopped before.

    Raises:
        OperatorNeeded: as `recover` and `open_ground`.
    """
    await asyncio.to_thread(recover, settings, now, stopped.is_set)
    return None if stopped.is_set() else await asyncio.to_thread(open_ground, settings, now())


def recover(
    settings: ControllerSettings, now: Callable[[], datetime], stopped: Callable[[], bool]
) -> Learned | None:
    """Finish the recovery that is pending, if one is; None: there is none, or we were stopped.

    Raises:
        OperatorNeeded: keys or certificates are missing, or the broker does not start.
    """
    store = Store(settings.store_url)
    try:
        store.migrate()
        with store.read() as tx:
            recovery = recoveries.pending(tx)
        if recovery is None:
            return None
        return _Recovery(settings, store, recovery, now, stopped).run()
    finally:
        store.close()


@dataclass(slots=True)
class _Ears:
    """What was heard so far, and when last something that counts."""

    hearsay: Hearsay
    reports: int = 0
    news_at: float | None = None  # monotonic; None: the broker was not reached yet
    begun_at: float | None = None


class _Recovery:
    def __init__(
        self,
        settings: ControllerSettings,
        store: Store,
        recovery: RecoveryRow,
        now: Callable[[], datetime],
        stopped: Callable[[], bool],
    ) -> None:
        self._settings = settings
        self._store = store
        self._recovery = recovery
        self._now = now
        self._stopped = stopped
        self._keys = OnlineKeys.load(settings.keys_dir, {"director": settings.director_key})
        self._authority = Authority.load(settings.pki_dir)

    def run(self) -> Learned | None:
        _log.warning(
            "this database was restored; nothing is published before the fleet was heard",
            kind=self._recovery.kind,
            backup_at=self._recovery.backup_at,
            seconds=self._settings.recovery_listen_seconds,
        )
        with self._store.transaction() as tx:
            held_trust.import_directory(tx, self._settings.trust_dir, self._now())
        broker = self._broker()
        with self._store.read() as tx:
            known = frozenset(classes.names(tx)), devices.names(tx)
        ears = _Ears(Hearsay(self._settings.fleet, *known))
        try:
            self._hear(ears, self._settings.mqtt_port if broker is None else broker.port)
        finally:
            if broker is not None:
                broker.stop()
        if self._stopped():
            return None
        with self._store.transaction() as tx:
            learned = learning.learn(
                tx,
                self._recovery,
                ears.hearsay,
                self._keys,
                reports=ears.reports,
                now=self._now(),
            )
        _log.warning("recovered", summary=learning.summary(learned.as_json()))
        return learned

    def _broker(self) -> MosquittoBroker | None:
        settings, now = self._settings, self._now()
        server = self._authority.server_files(settings.certificate_names(), now=now)
        guard = BrokerGuard(
            store=self._store,
            authority=self._authority,
            directory=settings.broker_dir,
            reload_command=settings.broker_reload_command,
            partitions=settings.ingest.partitions,
        )
        guard.write_files(now)
        if not settings.embedded_broker:
            return None
        broker = MosquittoBroker(
            settings.broker_dir,
            fleet=settings.fleet,
            files=server,
            host=settings.mqtt_host,
            port=settings.mqtt_port,
        )
        broker.start()
        return broker

    def _hear(self, ears: _Ears, port: int) -> None:
        batch: list[Incoming] = []
        for message in listen(
            host=self._settings.mqtt_host,
            port=port,
            tls=client_context(self._authority.controller_files(now=self._now())),
            filters=hearsay.filters(self._settings.fleet),
            stopped=self._stopped,
        ):
            now = time.monotonic()
            ears.begun_at = now if ears.begun_at is None else ears.begun_at
            ears.news_at = now if ears.news_at is None else ears.news_at
            if message is not None and ears.hearsay.take(message):
                ears.news_at = now
            elif message is not None:
                batch.append(message)
            if len(batch) >= BATCH_MESSAGES_MAX or message is None:
                self._take_reports(ears, batch)
                batch = []
            # Early only once nothing waits any more: what devices report counts as well.
            if self._time_is_up(ears, now) or (message is None and self._heard_all(ears, now)):
                break
        self._take_reports(ears, batch)

    def _take_reports(self, ears: _Ears, batch: list[Incoming]) -> None:
        if batch:
            with self._store.device_transaction() as tx:
                ingest(tx, batch, fleet=self._settings.fleet, now=self._now())
            ears.reports += len(batch)
            batch.clear()

    def _time_is_up(self, ears: _Ears, now: float) -> bool:
        begun_at = now if ears.begun_at is None else ears.begun_at
        return now - begun_at >= self._settings.recovery_listen_seconds

    def _heard_all(self, ears: _Ears, now: float) -> bool:
        if ears.news_at is None or now - ears.news_at < QUIET_SECONDS:
            return False
        with self._store.read() as tx:
            wanted = set(classes.names(tx))
        return bool(wanted) and wanted <= ears.hearsay.bundles.keys()

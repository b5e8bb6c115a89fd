"""What a controller stands on: opened and checked before anybody can connect."""

from dataclasses import dataclass
from datetime import datetime

import structlog

from mailboat_controller.artifacts.artifact_store import ArtifactStore
from mailboat_controller.artifacts.opening import open_store
from mailboat_controller.authority.online import OnlineKeys, settle
from mailboat_controller.broker.embedded import MosquittoBroker
from mailboat_controller.broker.guard import BrokerGuard
from mailboat_controller.config import ControllerSettings
from mailboat_controller.content.kek import KekUnusable
from mailboat_controller.content.keys import ContentKeys
from mailboat_controller.ingest import batch_reading
from mailboat_controller.ingest.partition import client_name
from mailboat_controller.pki.issuing import Authority, TlsFiles
from mailboat_controller.reconcile import Reconciler
from mailboat_controller.store.engine import Store
from mailboat_controller.trust import held_trust
from mailboat_schemas.errors import ConfigurationInvalid

_log = structlog.get_logger(__name__)


class PartitionsNeedPostgres(ConfigurationInvalid):
    """One file has one writer; several processes would only wait for each other."""

    def __init__(self) -> None:
        super().__init__(
            "ingest.partitions is set, and the database is SQLite.",
            next_step="set database_url to a PostgreSQL, or ingest.partitions to 0.",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """Everything on this disk, and the broker if it is ours."""

    store: Store
    authority: Authority
    server: TlsFiles
    client: TlsFiles
    artifacts: ArtifactStore
    content_keys: ContentKeys
    reconciler: Reconciler
    guard: BrokerGuard
    broker: MosquittoBroker | None

    def close(self) -> None:
        if self.broker is not None:
            self.broker.stop()
        self.store.close()


def open_ground(settings: ControllerSettings, now: datetime) -> Ground:
    """
    Raises:
        OperatorNeeded: it cannot be served: no trust metadata, a wrong key, a damaged database, no
            broker. Nothing is left running.
    """
    try:
        store = Store(settings.store_url)
        if settings.ingest.partitions and store.is_sqlite:
            store.close()
            raise PartitionsNeedPostgres
        try:
            return _open(settings, store, now)
        except BaseException:
            store.close()
            raise
    except OSError as error:
        raise ConfigurationInvalid(
            f"The data directory {settings.data_dir} cannot be used: {error}.",
            next_step="let the user that runs `mailboat serve` own it and everything in it.",
        ) from error


def _open(settings: ControllerSettings, store: Store, now: datetime) -> Ground:
    keys = OnlineKeys.load(settings.keys_dir, {"director": settings.director_key})
    authority = Authority.load(settings.pki_dir)
    store.migrate()
    with store.transaction() as tx:
        taken = held_trust.import_directory(tx, settings.trust_dir, now, keys)
        held_trust.read(tx)
        keys, named = held_trust.named_keys(tx, keys), held_trust.named_keyids(tx)
        read = batch_reading.reread(tx, now)
    moved = settle(settings.keys_dir, named)
    _log.info("opened", trust_imported=taken, keys_moved=moved, events_read_again=read)
    reconciler = Reconciler(store, keys, settings.fleet)
    reconciler.run(now)
    server = authority.server_files(settings.certificate_names(), now=now)
    client = authority.controller_files(now=now)
    for partition in range(settings.ingest.partitions):
        authority.ingest_files(client_name(partition), now=now)
    artifacts = open_store(settings.artifacts, settings.artifacts_dir)
    content_keys = ContentKeys.of(settings, store)
    _look_at_content_keys(content_keys)
    guard = BrokerGuard(
        store=store,
        authority=authority,
        directory=settings.broker_dir,
        reload_command=settings.broker_reload_command,
        partitions=settings.ingest.partitions,
    )
    guard.write_files(now)
    return Ground(
        store=store,
        authority=authority,
        server=server,
        client=client,
        artifacts=artifacts,
        content_keys=content_keys,
        reconciler=reconciler,
        guard=guard,
        broker=_started_broker(settings, server, guard),  # last: a child that nobody else would end
    )


def _look_at_content_keys(content_keys: ContentKeys) -> None:
    """Said at once, and by `GET /v1/health`. We start all the same: withdrawals must reach devices
    while a token is unplugged, and whoever has its keys needs none of ours."""
    try:
        content_keys.check()
    except KekUnusable as error:
        _log.error(
            "content keys cannot be opened",
            code=error.code,
            problem=error.what,
            next_step=error.next_step,
        )


def _started_broker(
    settings: ControllerSettings, files: TlsFiles, guard: BrokerGuard
) -> MosquittoBroker | None:
    if not settings.embedded_broker:
        return None
    broker = MosquittoBroker(
        settings.broker_dir,
        fleet=settings.fleet,
        files=files,
        host=settings.mqtt_host,
        port=settings.mqtt_port,
    )
    broker.start()
    guard.started(broker)
    return broker

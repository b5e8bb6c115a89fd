"""``mailboat ingest``: takes in what one share of the devices says, beside the controller.

It decides nothing, publishes nothing but acknowledgements, and needs no key but the director's.
Of several processes of one partition one works; the others wait for its lock. Whatever was not
committed when a process is killed, the broker or the device's outbox still has.
"""

import asyncio
import contextlib
import os
import random
import socket
from collections.abc import Callable
from datetime import datetime

import structlog

from mailboat_controller import leading
from mailboat_controller.authority.director import DirectorKey
from mailboat_controller.config import ControllerSettings
from mailboat_controller.ingest.flood import FloodGate
from mailboat_controller.ingest.partition import client_name, share
from mailboat_controller.loop_errors import first_error
from mailboat_controller.metrics import metrics_server
from mailboat_controller.metrics.process_metrics import Metrics
from mailboat_controller.mqtt.link import DEVICE_CHANNELS, Link
from mailboat_controller.mqtt.receiving import Receiver
from mailboat_controller.pki.client_tls import client_context
from mailboat_controller.pki.issuing import TlsFiles, files_of
from mailboat_controller.store import ingest_partitions, recoveries
from mailboat_controller.store.engine import Store
from mailboat_controller.store.ingest_partitions import PartitionRow
from mailboat_controller.store.locks import HeldLock, partition_lock
from mailboat_controller.store.transaction import Transaction
from mailboat_controller.trust import held_trust
from mailboat_controller.wake import Wake
from mailboat_schemas.errors import ConfigurationInvalid, MailboatError

BEAT_SECONDS = 2.0
RECOVERY_LOOK_SECONDS = 2.0
PORT_LOOK_SECONDS = 10.0  # for a port that is taken

_log = structlog.get_logger(__name__)


async def take_in(
    settings: ControllerSettings,
    partition: int,
    *,
    now: Callable[[], datetime],
    stopped: asyncio.Event,
) -> None:
    """Work until we are stopped.

    Raises:
        ConfigurationInvalid: no such partition, or the leader has prepared none.
        LockLost: somebody else may have taken over.
    """
    partitions = settings.ingest.partitions
    if not 0 <= partition < partitions:
        raise ConfigurationInvalid(
            f"There is no partition {partition}: ingest.partitions is {partitions}.",
            next_step="name one from 0 on; set ingest.partitions for `mailboat serve` too.",
        )
    if not settings.mqtt_port:
        raise ConfigurationInvalid(
            "mqtt_port is 0, any free port, so nobody but `mailboat serve` knows it.",
            next_step="set mqtt_port to the broker's.",
        )
    files = _files(settings, partition)
    async with leading.holding(settings.store_url, partition_lock(partition), stopped) as held:
        if held is None:
            return
        store = Store(settings.store_url)
        try:
            await _Process(settings, partition, files, store, held, now).run(stopped)
        except* MailboatError as group:
            raise first_error(group) from None
        finally:
            store.close()


class _Process:
    def __init__(
        self,
        settings: ControllerSettings,
        partition: int,
        files: TlsFiles,
        store: Store,
        held: HeldLock,
        now: Callable[[], datetime],
    ) -> None:
        self._settings = settings
        self._partition = partition
        self._files = files
        self._store = store
        self._held = held
        self._now = now
        # What is in the database `mailboat serve` shows.
        self._metrics = Metrics(None, dict)

    async def run(self, stopped: asyncio.Event) -> None:
        settings, store = self._settings, self._store
        await self._until_recovered(stopped)
        if stopped.is_set():
            return
        director = await asyncio.to_thread(self._director)
        receiver = Receiver(
            store=store,
            admission=None,
            fleet=settings.fleet,
            metrics=self._metrics,
            changed=Wake(),
            queued=Wake(),
            sign_ack=director.sign_ack,
            now=self._now,
            gate=FloodGate(settings.ingest.flood_limits),
            owns=share(self._partition, settings.ingest.partitions),
        )
        link = Link(
            host=settings.mqtt_host,
            port=settings.mqtt_port,
            fleet=settings.fleet,
            tls=client_context(self._files),
            rng=random.Random(),  # noqa: S311  spreads reconnects, hides nothing
            client_id=client_name(self._partition),
            channels=DEVICE_CHANNELS,
        )
        _log.info("taking in", partition=self._partition, partitions=settings.ingest.partitions)
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(link.run(lambda: None), name="mqtt"),
                group.create_task(receiver.run(link), name="receive"),
                group.create_task(self._beat(link, receiver, director), name="beat"),
                group.create_task(leading.keep(self._held), name="lock"),
                group.create_task(self._show_figures(), name="figures"),
            ]
            await stopped.wait()
            for task in tasks:
                task.cancel()

    async def _until_recovered(self, stopped: asyncio.Event) -> None:
        """Nobody is told anything of a restored database before `serve` has heard the fleet."""
        told = False
        while not stopped.is_set() and await asyncio.to_thread(self._is_recovering):
            if not told:
                _log.warning("this database was restored; `mailboat serve` hears the fleet first")
            told = True
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopped.wait(), RECOVERY_LOOK_SECONDS)

    def _is_recovering(self) -> bool:
        if not self._store.is_migrated():
            return False  # `_director` says what to do then
        with self._store.read() as tx:
            return recoveries.pending(tx) is not None

    async def _show_figures(self) -> None:
        """Whoever worked before us may still be on its way out and have the port."""
        settings = self._settings.ingest
        port = settings.metrics_port + self._partition
        while settings.metrics_port:
            try:
                with metrics_server.shown(settings.metrics_host, port, self._metrics.render):
                    await asyncio.Event().wait()
            except ConfigurationInvalid as error:
                _log.warning("our figures are not shown", problem=str(error))
            await asyncio.sleep(PORT_LOOK_SECONDS)

    def _director(self) -> DirectorKey:
        if not self._store.is_migrated():
            raise ConfigurationInvalid(
                "The database is not of this version.",
                next_step="start `mailboat serve` of this version first: it brings it there.",
            )
        with self._store.read() as tx:
            return DirectorKey(
                self._settings.keys_dir, self._settings.director_key, _director_keyids(tx)
            )

    async def _beat(self, link: Link, receiver: Receiver, director: DirectorKey) -> None:
        """Tell the leader that we are there and whether it should look; follow its keys."""
        holder = f"{socket.gethostname()}:{os.getpid()}"
        while True:
            self._metrics.broker_connected.set(link.connected)
            row = PartitionRow(
                partition=self._partition,
                partitions=self._settings.ingest.partitions,
                holder=holder,
                broker_connected=link.connected,
                changes=receiver.changes,
                beat_at=self._now(),
            )
            try:
                director.follow(await asyncio.to_thread(self._tell, row))
            except MailboatError as error:
                _log.warning("the leader is not told", problem=str(error))
            await asyncio.sleep(BEAT_SECONDS)

    def _tell(self, row: PartitionRow) -> tuple[str, ...]:
        with self._store.device_transaction() as tx:
            ingest_partitions.beat(tx, row)
            return _director_keyids(tx)


def _director_keyids(tx: Transaction) -> tuple[str, ...]:
    return held_trust.named_keyids(tx)["director"]


def _files(settings: ControllerSettings, partition: int) -> TlsFiles:
    files = files_of(settings.pki_dir, client_name(partition))
    missing = [path for path in (files.ca, files.certificate, files.key) if not path.is_file()]
    if missing:
        raise ConfigurationInvalid(
            f"{missing[0]} is missing.",
            next_step="start `mailboat serve` with ingest.partitions set: it makes a certificate "
            "for each partition; on another machine, bring ca.pem and this pair there.",
        )
    return files

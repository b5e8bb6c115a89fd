"""A controller whose database is put back to an earlier day, while its fleet is not."""

import copy
import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from controller_core import Core
from enrolled_fleet import CLASS, FLEET, EnrolledDevice
from mailboat_controller.artifacts.directory import DirectoryStore
from mailboat_controller.mqtt.incoming import Incoming
from mailboat_controller.reconcile import Reconciler
from mailboat_controller.recovery import learning
from mailboat_controller.recovery.hearsay import Hearsay
from mailboat_controller.recovery.learning import Learned
from mailboat_controller.releases.admission import Admission
from mailboat_controller.store import classes, devices, recoveries
from mailboat_controller.store.engine import Store
from mailboat_schemas.topics import Channel, build


@dataclass
class AgedCore(Core):
    """With its devices by name."""

    named: dict[str, EnrolledDevice] = field(default_factory=dict)

    def clone(self, directory: Path) -> "AgedCore":
        """The same in another directory: a ceremony takes half a second, a copy does not."""
        self.store.close()
        shutil.copytree(self.directory, directory)
        twin = copy.copy(self)
        twin.directory, twin.sequences, twin.named = (
            directory,
            dict(self.sequences),
            dict(self.named),
        )
        twin.trust, twin.fleet = copy.copy(self.trust), copy.copy(self.fleet)
        twin.trust.roles, twin.trust.documents = dict(self.trust.roles), dict(self.trust.documents)
        reopen(twin)
        return twin

    def enrol(self, name: str) -> EnrolledDevice:
        self.named[name] = self.fleet.enrol(name)
        return self.named[name]


def reopen(core: Core) -> None:
    core.fleet.store = core.store = Store(f"sqlite:///{core.directory / 'mailboat.db'}")
    core.reconciler = Reconciler(core.store, core.trust.online, FLEET)
    core.artifacts = DirectoryStore(core.directory / "artifacts")
    core.admission = Admission(core.store, core.reconciler, core.artifacts, FLEET)


def backup(core: Core) -> Path:
    """A copy of the database as it is now."""
    path = core.directory / "backup.db"
    with (
        closing(sqlite3.connect(core.directory / "mailboat.db")) as ours,
        closing(sqlite3.connect(path)) as kept,
    ):
        ours.backup(kept)
    return path


def retained(core: Core, hardware_class: str = CLASS) -> Incoming:
    """What the broker has retained for a class: the newest that was published."""
    return Incoming(
        topic=build(Channel.MANIFEST, fleet=FLEET, hardware_class=hardware_class),
        payload=core.manifest(hardware_class).bundle,
        retain=True,
    )


def restore(core: Core, path: Path, backup_at: datetime) -> None:
    """Put the backup in the database's place; the recovery is pending then."""
    core.store.close()
    database = core.directory / "mailboat.db"
    for beside in ("-wal", "-shm"):
        database.with_name(database.name + beside).unlink(missing_ok=True)
    database.write_bytes(path.read_bytes())
    reopen(core)
    with core.store.transaction() as tx:
        recoveries.begin(
            tx, kind="restore", backup_at=backup_at, actor="local:ada", reason="fire", at=core.now
        )


def learn(core: Core, *heard: Incoming, reports: int = 0) -> Learned:
    """Finish the recovery with what was heard."""
    with core.store.read() as tx:
        hearsay = Hearsay(FLEET, frozenset(classes.names(tx)), devices.names(tx))
    for message in heard:
        assert hearsay.take(message)
    with core.store.transaction() as tx:
        recovery = recoveries.pending(tx)
        assert recovery is not None
        return learning.learn(
            tx, recovery, hearsay, core.trust.online, reports=reports, now=core.now
        )


def seen_counter(core: Core, device: str) -> int:
    with core.store.read() as tx:
        return devices.get(tx, device).manifest_counter

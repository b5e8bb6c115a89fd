"""A new database for a controller that has lost the old one and has no backup of it.

From the exported audit log: the log itself, devices with their keys, classes, sites, credentials,
and who was revoked. From the fleet, when `serve` hears it: roles, releases, rollouts, counters.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import IO

from mailboat_controller.backup.restoring import begin
from mailboat_controller.config import ControllerSettings
from mailboat_controller.recovery import replay
from mailboat_controller.recovery.replay import Replayed
from mailboat_controller.store import audit, classes, devices
from mailboat_controller.store.engine import Store
from mailboat_controller.trust import held_trust
from mailboat_schemas.errors import ConfigurationInvalid, Conflict


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilt:
    audit_entries: int
    devices: int
    classes: int
    replayed: Replayed


def rebuild(
    settings: ControllerSettings,
    audit_export: IO[bytes] | None,
    *,
    actor: str,
    reason: str,
    now: datetime,
) -> Rebuilt:
    """All of it or nothing.

    Raises:
        Conflict: the database is not empty. ConfigurationInvalid: keys, certificates or trust
            metadata are missing: those cannot be rebuilt from anything.
        AuditBroken: the export does not hold, or does not begin at the beginning.
    """
    for place in (settings.keys_dir, settings.pki_dir, settings.trust_dir):
        if not place.is_dir():
            raise ConfigurationInvalid(
                f"{place} is missing, and nothing else has what was in it.",
                next_step="bring it back from a backup; without pki/ every device enrols again, "
                "without keys/ and trust/ a new ceremony begins.",
            )
    store = Store(settings.store_url)
    try:
        store.migrate()
        with store.transaction() as tx:
            if audit.head(tx)[0]:
                raise Conflict(
                    "The database is not empty.",
                    next_step="move it aside; rebuild makes a new one, and never mends an old one.",
                )
            replayed = Replayed()
            if audit_export is not None:
                replayed = replay.take_up(tx, audit_export, settings.keys_dir, now=now)
            held_trust.import_directory(tx, settings.trust_dir, now)
            begin(
                tx,
                kind="rebuild",
                backup_at=None,
                actor=actor,
                reason=reason,
                details={"replayed": replayed.as_json()},
                now=now,
            )
            return Rebuilt(
                audit_entries=audit.head(tx)[0],
                devices=sum(each.enrolled for each in devices.count_by_class(tx)),
                classes=len(classes.names(tx)),
                replayed=replayed,
            )
    finally:
        store.close()

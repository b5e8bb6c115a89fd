"""A backup back into a data directory that is not there yet, whole and verified, or not at all.

What it leaves is a controller that must not say anything yet: the recovery is pending, and `serve`
hears the fleet first (`mailboat_controller.recovery`).
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO

from mailboat_controller.backup import archive
from mailboat_controller.backup.archive import Manifest
from mailboat_controller.backup.sealed_stream import BackupUnusable, SealedReader
from mailboat_controller.config import CONFIG_FILE, ControllerSettings, load
from mailboat_controller.durable_file import fsync_directory
from mailboat_controller.recovery import replay
from mailboat_controller.recovery.replay import Replayed
from mailboat_controller.store import audit, console_sessions, database_copy, recoveries
from mailboat_controller.store.engine import Store, known_versions
from mailboat_controller.store.transaction import Transaction
from mailboat_schemas.errors import ConfigurationInvalid, Conflict

ACTION = "database.restore"
Advance = Callable[[int], None]


class BackupNewer(BackupUnusable):
    """Made by a version whose database this one cannot read."""

    code = "E-BACKUP-NEWER"


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    data_dir: Path
    manifest: Manifest
    replayed: Replayed | None  # of an exported audit log


def restore(
    path: Path,
    data_dir: Path,
    passphrase: bytes,
    *,
    actor: str,
    reason: str,
    now: datetime,
    database_url: str | None = None,
    audit_export: IO[bytes] | None = None,
    bytes_done: Advance = lambda _count: None,
) -> Restored:
    """
    Args:
        data_dir: not there, or empty.
        database_url: of an empty database to restore into; without it the settings of the backup
            say, and a server's must be empty too.
        audit_export: of the same controller, later than the backup: what is in it is taken up.

    Raises:
        Conflict: something is there already. BackupUnusable: the backup is not whole, was changed,
            or opens with another passphrase. BackupNewer. AuditBroken: of the export.
        DatabaseNotCopied: the database that was named is not empty.
    """
    _refuse_existing(data_dir)
    partial = data_dir.with_name(data_dir.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True, mode=0o700)
    try:
        with path.open("rb") as file:
            sealed = SealedReader(file, passphrase)
            manifest = archive.read(sealed, partial, bytes_done)  # type: ignore[arg-type]
        _refuse_newer(manifest)
        settings = _settings(partial, data_dir)
        replayed = _finish_database(
            partial, settings, manifest, audit_export, actor=actor, reason=reason, now=now
        )
        url = settings.database_url if database_url is None else database_url
        if url:
            _into_server(partial, url)
        for directory in (partial, *(path for path in partial.rglob("*") if path.is_dir())):
            fsync_directory(directory)
        if data_dir.exists():
            data_dir.rmdir()
        partial.replace(data_dir)
        fsync_directory(data_dir.absolute().parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Restored(data_dir=data_dir, manifest=manifest, replayed=replayed)


def _settings(partial: Path, data_dir: Path) -> ControllerSettings:
    """Those of the backup, about the directory that is being made."""
    settings = load(partial / CONFIG_FILE)
    if settings.data_dir not in (partial.resolve(), data_dir.resolve()):
        raise ConfigurationInvalid(
            f"The backup's {CONFIG_FILE} has data_dir = {settings.data_dir}: started from "
            f"{data_dir}, the controller would work there.",
            next_step=f"restore with --data-dir {settings.data_dir}.",
        )
    return settings.model_copy(update={"data_dir": partial.resolve()})


def _refuse_existing(data_dir: Path) -> None:
    if data_dir.exists() and (not data_dir.is_dir() or any(data_dir.iterdir())):
        raise Conflict(
            f"{data_dir} is not empty.",
            next_step="name a directory that is not there yet. Nothing is ever restored over "
            "something: move the old one aside, it may be evidence.",
        )


def _refuse_newer(manifest: Manifest) -> None:
    if manifest.schema not in known_versions():
        raise BackupNewer(
            f"The backup's database is of version {manifest.schema} (mailboat "
            f"{manifest.made_by}), which this program does not know.",
            next_step="install the version of mailboat that made it, or a newer one.",
        )


def _finish_database(
    partial: Path,
    settings: ControllerSettings,
    manifest: Manifest,
    audit_export: IO[bytes] | None,
    *,
    actor: str,
    reason: str,
    now: datetime,
) -> Replayed | None:
    store = Store(f"sqlite:///{partial / archive.DATABASE}")
    try:
        store.migrate()
        with store.transaction() as tx:
            broken = audit.check(tx)
            if broken is not None or audit.head(tx) != (
                manifest.audit_entries,
                manifest.audit_head,
            ):
                raise BackupUnusable(
                    "The audit log in the backup is not the one that its list names.",
                    next_step="take another backup; this one was put together by somebody.",
                )
            console_sessions.end_every(tx)  # who logged out since stays logged out
            replayed = None
            if audit_export is not None:
                replayed = replay.take_up(tx, audit_export, settings.keys_dir, now=now)
            begin(
                tx,
                kind="restore",
                backup_at=datetime.fromisoformat(manifest.made_at),
                actor=actor,
                reason=reason,
                details={
                    "backup_made_at": manifest.made_at,
                    "backup_audit_entries": manifest.audit_entries,
                    "backup_audit_head": manifest.audit_head,
                    "replayed": {} if replayed is None else replayed.as_json(),
                },
                now=now,
            )
        store.checkpoint()
    finally:
        store.close()
    for beside in ("-wal", "-shm"):
        (partial / f"{archive.DATABASE}{beside}").unlink(missing_ok=True)
    return replayed


def begin(
    tx: Transaction,
    *,
    kind: str,
    backup_at: datetime | None,
    actor: str,
    reason: str,
    details: dict[str, object],
    now: datetime,
) -> None:
    """From here on nothing is published before the fleet was heard."""
    recoveries.begin(tx, kind=kind, backup_at=backup_at, actor=actor, reason=reason, at=now)
    audit.append(
        tx,
        at=now,
        actor=actor,
        action=f"database.{kind}",
        subject=f"database:{kind}",
        reason=reason,
        details=details,
    )


def _into_server(partial: Path, url: str) -> None:
    """What was restored, into another database, which must be empty."""
    source, target = Store(f"sqlite:///{partial / archive.DATABASE}"), Store(url)
    try:
        if target.is_sqlite:
            raise ConfigurationInvalid(
                "A backup is restored into its data directory, or into a server's database.",
                next_step="leave out --database-url, or name a postgresql+psycopg:// one.",
            )
        database_copy.refuse_unready(source, target)
        target.migrate()
        with source.read() as tx, target.transaction() as into:
            database_copy.copy_rows(tx, into)
    finally:
        source.close()
        target.close()
    (partial / archive.DATABASE).unlink()

"""A backup of a controller that may be running: one view of its database, then its files.

The database goes through a logical copy, row by row, from whatever it is kept in: one view of it,
nobody waits, and what comes back does not depend on a server's version.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from mailboat_controller.auditing import signed_head
from mailboat_controller.backup import archive
from mailboat_controller.backup.archive import Manifest
from mailboat_controller.backup.sealed_stream import BackupUnusable, SealedReader, SealedWriter
from mailboat_controller.config import CONFIG_FILE, ControllerSettings
from mailboat_controller.durable_file import fsync_directory
from mailboat_controller.store import all_tables, audit, database_copy
from mailboat_controller.store.database_copy import Copied
from mailboat_controller.store.engine import Store
from mailboat_schemas.errors import ConfigurationInvalid, Conflict

ACTION = "database.backup"
ROOM_FACTOR = 2  # of the database: a copy beside it, and that copy sealed

SCRATCH_PREFIX = "backup-"
SCRATCH_SECONDS_MAX = 24 * 3600  # no backup takes so long; a younger one may be under way

Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    path: Path
    bytes: int
    manifest: Manifest


def make(
    settings: ControllerSettings,
    out: Path,
    passphrase: bytes,
    *,
    artifacts: bool,
    actor: str,
    reason: str,
    now: datetime,
    rows: Advance = lambda _count: None,
    bytes_done: Advance = lambda _count: None,
) -> Made:
    """Write a backup and read it back; the file appears once that was done.

    Raises:
        Conflict: there is a file of that name. ConfigurationInvalid: artifacts are in a bucket, or
            the database is not of this version.
        DatabaseNotCopied: the database does not hold together, such as its audit log.
    """
    if out.exists():
        raise Conflict(f"There is a file {out} already.", next_step="choose another name.")
    if artifacts and not settings.artifacts_dir.is_dir():
        raise ConfigurationInvalid(
            f"There are no artifacts in {settings.artifacts_dir}.",
            next_step="leave out --artifacts: a bucket has versions and backups of its own.",
        )
    _require_settings_file(settings)
    beside = out.with_name(out.name + ".new")
    store = Store(settings.store_url)
    _sweep(settings.data_dir, now)
    scratch = Path(tempfile.mkdtemp(prefix=SCRATCH_PREFIX, dir=settings.data_dir))
    try:
        _require_this_version(store)
        signed_head.open_key(settings.keys_dir)  # made now, or later exports fit no backup
        _record(store, out, actor=actor, reason=reason, now=now)
        copied = _copy(store, scratch / archive.DATABASE, rows)
        manifest = Manifest(
            fleet=settings.fleet,
            made_at=now.isoformat(timespec="milliseconds"),
            made_by=version("mailboat"),
            schema=all_tables.SCHEMA_VERSION,
            origin="sqlite" if store.is_sqlite else "postgresql",
            rows=copied.rows,
            audit_entries=copied.audit_entries,
            audit_head=copied.audit_head,
            artifacts=artifacts,
        )
        _write(settings.data_dir, scratch, beside, passphrase, manifest, bytes_done)
        whole = check(beside, passphrase, bytes_done)
        beside.replace(out)
        fsync_directory(out.absolute().parent)
    finally:
        store.close()
        shutil.rmtree(scratch, ignore_errors=True)
        beside.unlink(missing_ok=True)
    return Made(path=out, bytes=out.stat().st_size, manifest=whole)


def _sweep(data_dir: Path, now: datetime) -> None:
    """Copies of the database that a backup left which was killed: nobody else takes them away."""
    for old in data_dir.glob(f"{SCRATCH_PREFIX}*"):
        with contextlib.suppress(OSError):
            if now.timestamp() - old.stat().st_mtime > SCRATCH_SECONDS_MAX:
                shutil.rmtree(old, ignore_errors=True)


def check(path: Path, passphrase: bytes, bytes_done: Advance = lambda _count: None) -> Manifest:
    """Read a backup from its beginning to its end, without taking anything out.

    Raises:
        BackupUnusable: it is not whole, was changed, or the passphrase is another one.
    """
    with path.open("rb") as file:
        return archive.read(SealedReader(file, passphrase), None, bytes_done)  # type: ignore[arg-type]


def _require_settings_file(settings: ControllerSettings) -> None:
    if not (settings.data_dir / CONFIG_FILE).is_file():
        raise ConfigurationInvalid(
            f"There is no {CONFIG_FILE} in {settings.data_dir}.",
            next_step="keep the settings file in the data directory: a backup is to be enough.",
        )


def _require_this_version(store: Store) -> None:
    if not store.is_migrated():
        raise ConfigurationInvalid(
            "The database is not of this version of mailboat.",
            next_step="make the backup with the version that serves it.",
        )


def _record(store: Store, out: Path, *, actor: str, reason: str, now: datetime) -> None:
    """Before the copy, so that it is in it: who has one is a question for later."""
    with store.transaction() as tx:
        audit.append(
            tx,
            at=now,
            actor=actor,
            action=ACTION,
            subject=out.name,
            reason=reason,
            details={"file": str(out)},
        )


def _copy(store: Store, path: Path, rows: Advance) -> Copied:
    target = Store(f"sqlite:///{path}")
    try:
        target.migrate()
        with store.read() as tx, target.transaction() as into:
            copied = database_copy.copy_rows(tx, into, rows)
        target.checkpoint()
    finally:
        target.close()
    return copied


def _write(
    data_dir: Path,
    scratch: Path,
    beside: Path,
    passphrase: bytes,
    manifest: Manifest,
    bytes_done: Advance,
) -> None:
    beside.unlink(missing_ok=True)
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        with SealedWriter(file, passphrase) as sealed:
            writer = archive.Writer(sealed, bytes_done)  # type: ignore[arg-type]
            writer.add(archive.DATABASE, scratch / archive.DATABASE)
            for name, path in archive.files_of(data_dir, artifacts=manifest.artifacts):
                try:
                    writer.add(name, path)
                except FileNotFoundError:
                    continue  # taken away meanwhile, such as an artifact that nobody names
            writer.finish(manifest)
        file.flush()
        os.fsync(file.fileno())


__all__ = ["BackupUnusable", "Made", "check", "make"]

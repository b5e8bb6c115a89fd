"""A controller into one file and back: whole and verified, or nothing at all."""

import io
import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO

import pytest

from enrolled_fleet import EnrolledDevice
from mailboat_controller import data_directory
from mailboat_controller.auditing import checking, export_file, signed_head
from mailboat_controller.auditing.signed_head import AuditBroken
from mailboat_controller.backup import archive, making, rebuilding, restoring, sealed_stream
from mailboat_controller.backup.restoring import BackupNewer
from mailboat_controller.backup.sealed_stream import BackupUnusable, SealedReader, SealedWriter
from mailboat_controller.config import ControllerSettings, load
from mailboat_controller.store import audit, devices, recoveries
from mailboat_controller.store.engine import Store
from mailboat_controller.store.table_copy import DatabaseNotCopied
from mailboat_schemas.errors import ConfigurationInvalid, Conflict
from postgres_server import PostgresServer
from trust_fleet import TrustFleet

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
PASSPHRASE = b"a long passphrase"
MANIFEST = archive.Manifest(
    fleet="demo",
    made_at=NOON.isoformat(),
    made_by="0",
    schema="0",
    origin="sqlite",
    rows=0,
    audit_entries=0,
    audit_head="",
    artifacts=False,
)
TEMPLATE = "migrated"  # see `conftest.postgres`


@pytest.fixture(autouse=True, scope="module")
def _a_key_that_takes_no_time() -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    patch.setattr(sealed_stream, "SCRYPT_N", 2)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> ControllerSettings:
    directory = tmp_path_factory.mktemp("controller")
    TrustFleet(directory / "ceremony", now=NOON)
    return data_directory.create(
        directory / "data",
        fleet="demo",
        trust=directory / "ceremony" / "controller",
        now=NOON,
        listen_port=0,
        mqtt_port=0,
    )


def add(settings: ControllerSettings, name: str) -> None:
    """A device, with the entry that its enrolment makes."""
    store, device = Store(settings.store_url), EnrolledDevice(name)
    with store.transaction() as tx:
        enrol(tx, device)
    store.close()


def enrol(tx: object, device: EnrolledDevice) -> None:
    import base64

    number = devices.enrol(
        tx,  # type: ignore[arg-type]
        device=device.name,
        hardware_class="kiosk",
        site="-",
        labels={"ring": "1"},
        public_key=device.public_key,
        at=NOON,
    )
    audit.append(
        tx,  # type: ignore[arg-type]
        at=NOON,
        actor=f"device:{device.name}",
        action="device.enrol",
        subject=device.name,
        reason="it came with a token",
        details={
            "hardware_class": "kiosk",
            "site": "-",
            "labels": {"ring": "1"},
            "enrolment_number": number,
            "certificate_serial": f"5{number}",
            "expires_at": (NOON + timedelta(days=30)).isoformat(),
            "public_key": base64.b64encode(device.public_key).decode(),
        },
    )


def make(settings: ControllerSettings, out: Path) -> making.Made:
    return making.make(
        settings,
        out,
        PASSPHRASE,
        artifacts=False,
        actor="local:ada",
        reason="nightly",
        now=NOON,
    )


def restore(path: Path, data_dir: Path, **more: object) -> restoring.Restored:
    return restoring.restore(
        path,
        data_dir,
        PASSPHRASE,
        actor="local:ada",
        reason="fire",
        now=NOON + timedelta(hours=1),
        **more,  # type: ignore[arg-type]
    )


def export(settings: ControllerSettings, path: Path) -> Path:
    store = Store(settings.store_url)
    with store.read() as tx:
        signed = checking.sign_now(
            tx, signed_head.open_key(settings.keys_dir), fleet="demo", now=NOON
        )
        path.write_text("".join(export_file.lines(audit.entries(tx), signed)))
    store.close()
    return path


def test_a_backup_comes_back_whole_and_waits_to_hear_the_fleet(
    settings: ControllerSettings, tmp_path: Path
) -> None:
    add(settings, "dev-whole")
    made = make(settings, tmp_path / "b.backup")

    restored = restore(made.path, tmp_path / "new")

    there = load(tmp_path / "new" / "controller.toml")
    store = Store(there.store_url)
    with store.read() as tx:
        pending = recoveries.pending(tx)
        entries = audit.page(tx, limit=500)
        assert devices.by_name(tx, "dev-whole") is not None
        assert audit.verify(tx) is None
    store.close()
    assert pending is not None
    assert (pending.kind, pending.backup_at) == ("restore", NOON)
    assert [row.action for row in entries][-2:] == ["database.backup", "database.restore"]
    assert entries[-1].reason == "fire"
    for name in ("pki/ca.key", "keys/director.pem", "trust/1.root.json"):
        assert (there.data_dir / name).read_bytes() == (settings.data_dir / name).read_bytes()
        assert (there.data_dir / name).stat().st_mode & 0o077 == 0
    assert restored.manifest.files.keys() == made.manifest.files.keys()
    assert not list(settings.data_dir.glob("backup-*"))


@pytest.mark.slow
def test_it_is_encrypted_and_readable_by_its_owner_alone(
    settings: ControllerSettings, tmp_path: Path
) -> None:
    made = make(settings, tmp_path / "b.backup")

    assert b"PRIVATE KEY" not in made.path.read_bytes()
    assert made.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.slow
def test_it_is_made_while_the_controller_writes(
    settings: ControllerSettings, tmp_path: Path
) -> None:
    """One view of the database: what was not committed when it began is not in it, nor half."""
    store = Store(settings.store_url)
    begun: list[int] = []

    def write(count: int) -> None:
        if not begun:
            begun.append(count)
            with store.transaction() as tx:
                enrol(tx, EnrolledDevice("dev-late"))

    made = making.make(
        settings,
        tmp_path / "b.backup",
        PASSPHRASE,
        artifacts=False,
        actor="local:ada",
        reason="",
        now=NOON,
        rows=write,
    )
    restore(made.path, tmp_path / "new")

    there = Store(load(tmp_path / "new" / "controller.toml").store_url)
    with store.read() as ours, there.read() as theirs:
        assert devices.by_name(ours, "dev-late") is not None
        assert devices.by_name(theirs, "dev-late") is None
        assert audit.verify(theirs) is None
    store.close()
    there.close()


@pytest.mark.slow
def test_nothing_is_overwritten(settings: ControllerSettings, tmp_path: Path) -> None:
    made = make(settings, tmp_path / "b.backup")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "evidence").touch()

    with pytest.raises(Conflict, match="already"):
        make(settings, made.path)
    with pytest.raises(Conflict, match="not empty"):
        restore(made.path, tmp_path / "old")
    assert [each.name for each in (tmp_path / "old").iterdir()] == ["evidence"]


@pytest.mark.slow
def test_a_backup_that_was_changed_leaves_nothing_behind(
    settings: ControllerSettings, tmp_path: Path
) -> None:
    made = make(settings, tmp_path / "b.backup")
    content = bytearray(made.path.read_bytes())
    content[len(content) // 2] ^= 1
    made.path.write_bytes(content)

    with pytest.raises(BackupUnusable):
        restore(made.path, tmp_path / "new")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["b.backup"]


@pytest.mark.slow
def test_a_backup_of_a_newer_version_is_refused(
    settings: ControllerSettings, tmp_path: Path
) -> None:
    made = make(settings, tmp_path / "b.backup")
    changed = rewritten(made.path, lambda m: {**m, "schema": "9999"})

    with pytest.raises(BackupNewer, match="9999"):
        restore(changed, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def rewritten(path: Path, change: object) -> Path:
    """The same backup with another list of contents, sealed with the right passphrase."""
    out = path.with_name("changed.backup")
    with (
        path.open("rb") as file,
        out.open("wb") as target,
        tarfile.open(fileobj=SealedReader(file, PASSPHRASE), mode="r|") as old,  # type: ignore[arg-type]
        SealedWriter(target, PASSPHRASE) as sealed,
        tarfile.open(fileobj=sealed, mode="w|") as new,  # type: ignore[arg-type]
    ):
        for info in old:
            extracted = old.extractfile(info)
            assert extracted is not None
            content = extracted.read()
            if info.name == archive.MANIFEST:
                content = json.dumps(change(json.loads(content))).encode()  # type: ignore[operator]
            again = tarfile.TarInfo(info.name)
            again.size = len(content)
            new.addfile(again, io.BytesIO(content))
    return out


@pytest.mark.parametrize(
    "name", ["../evil", "/etc/passwd", "keys/../../evil", "broker/acl", "keys/a\nb", "x" * 10]
)
def test_a_name_that_has_no_place_in_a_data_directory_is_refused(tmp_path: Path, name: str) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w|") as tar:
        info = tarfile.TarInfo(name)
        info.size = 1
        tar.addfile(info, io.BytesIO(b"x"))
    file.seek(0)

    with pytest.raises(BackupUnusable, match="no place"):
        archive.read(file, tmp_path / "new", lambda _count: None)
    assert not (tmp_path / "evil").exists()


def test_a_link_in_an_archive_is_refused(tmp_path: Path) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w|") as tar:
        info = tarfile.TarInfo("keys/director.pem")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/shadow"
        tar.addfile(info)
    file.seek(0)

    with pytest.raises(BackupUnusable, match="no place"):
        archive.read(file, tmp_path / "new", lambda _count: None)


@pytest.mark.slow
def test_a_later_export_of_the_audit_log_is_taken_up(
    settings: ControllerSettings, tmp_path: Path
) -> None:
    """Who enrolled since, and above all who was revoked since."""
    add(settings, "dev-before")
    made = make(settings, tmp_path / "b.backup")
    add(settings, "dev-since")
    store = Store(settings.store_url)
    with store.transaction() as tx:
        devices.revoke(tx, "dev-before")
        audit.append(
            tx, at=NOON, actor="operator:ada", action="device.revoke", subject="dev-before"
        )
        number = devices.get(tx, "dev-since").enrolment_number
    store.close()
    exported = export(settings, tmp_path / "audit.jsonl")

    with exported.open("rb") as file:
        restored = restore(made.path, tmp_path / "new", audit_export=file)

    there = Store(load(tmp_path / "new" / "controller.toml").store_url)
    with there.read() as tx:
        assert devices.get(tx, "dev-before").revoked
        assert devices.get(tx, "dev-since").enrolment_number == number
        assert audit.verify(tx) is None
    there.close()
    assert restored.replayed is not None
    assert restored.replayed.taken_up == {"device.enrol": 1, "device.revoke": 1}
    assert not restored.replayed.failed


@pytest.mark.slow
def test_an_export_that_does_not_go_on_from_the_backup_is_refused(
    settings: ControllerSettings, tmp_path: Path
) -> None:
    made = make(settings, tmp_path / "b.backup")
    restore(made.path, tmp_path / "one")
    there = load(tmp_path / "one" / "controller.toml")
    exported = export(there, tmp_path / "audit.jsonl")  # has an entry of its own by now
    later = make(settings, tmp_path / "later.backup")

    with exported.open("rb") as file, pytest.raises(AuditBroken, match="not the same log"):
        restore(later.path, tmp_path / "two", audit_export=file)
    assert not (tmp_path / "two").exists()


@pytest.mark.slow
def test_a_database_is_rebuilt_from_the_exported_log(
    settings: ControllerSettings, tmp_path: Path
) -> None:
    add(settings, "dev-rebuilt")
    made = make(settings, tmp_path / "b.backup")
    exported = export(settings, tmp_path / "audit.jsonl")
    restore(made.path, tmp_path / "new")
    there = load(tmp_path / "new" / "controller.toml")
    (there.data_dir / "mailboat.db").unlink()

    with exported.open("rb") as file:
        rebuilt = rebuilding.rebuild(
            there, file, actor="local:ada", reason="disk", now=NOON + timedelta(hours=1)
        )

    store = Store(there.store_url)
    with store.read() as tx:
        assert devices.get(tx, "dev-rebuilt").labels == {"ring": "1"}
        assert recoveries.pending(tx) is not None
        assert audit.verify(tx) is None
    store.close()
    assert rebuilt.devices >= 1
    with pytest.raises(Conflict, match="not empty"), exported.open("rb") as file:
        rebuilding.rebuild(there, file, actor="a", reason="b", now=NOON)


@pytest.mark.slow
def test_keys_that_are_gone_cannot_be_rebuilt(settings: ControllerSettings, tmp_path: Path) -> None:
    made = make(settings, tmp_path / "b.backup")
    restore(made.path, tmp_path / "new")
    there = load(tmp_path / "new" / "controller.toml")
    (there.pki_dir).rename(tmp_path / "elsewhere")

    with pytest.raises(ConfigurationInvalid, match="pki"):
        rebuilding.rebuild(there, None, actor="a", reason="b", now=NOON)


@pytest.mark.slow
def test_a_logical_copy_keeps_numbers_that_were_given(
    settings: ControllerSettings, tmp_path: Path
) -> None:
    """An enrolment number is a roster: it is never given twice, also after a restore."""
    made = make(settings, tmp_path / "b.backup")
    restore(made.path, tmp_path / "new")
    ours, theirs = Store(settings.store_url), Store(f"sqlite:///{tmp_path / 'new' / 'mailboat.db'}")
    numbers = []
    for store in (ours, theirs):
        with store.transaction() as tx:
            enrol(tx, EnrolledDevice("dev-next"))
            numbers.append(devices.get(tx, "dev-next").enrolment_number)
        store.close()

    assert numbers[0] == numbers[1]


@pytest.mark.slow
def test_a_server_s_database_is_backed_up_and_restored_into_an_empty_one(
    settings: ControllerSettings, tmp_path: Path, postgres: PostgresServer
) -> None:
    url = postgres.database(TEMPLATE)
    on_server = settings.model_copy(update={"database_url": url})
    add(on_server, "dev-server")
    made = make(on_server, tmp_path / "b.backup")
    target = postgres.database()

    restore(made.path, tmp_path / "new", database_url=target)

    store = Store(target)
    with store.transaction() as tx:
        assert recoveries.pending(tx) is not None
        assert audit.verify(tx) is None
        before = devices.get(tx, "dev-server").enrolment_number
        enrol(tx, EnrolledDevice("dev-after"))
        assert devices.get(tx, "dev-after").enrolment_number > before
    store.close()
    assert made.manifest.origin == "postgresql"
    assert not (tmp_path / "new" / "mailboat.db").exists()
    with pytest.raises(DatabaseNotCopied, match="not empty"):
        restore(made.path, tmp_path / "again", database_url=target)
    assert not (tmp_path / "again").exists()


@pytest.mark.slow
def test_a_database_is_rebuilt_on_a_server_too(
    settings: ControllerSettings, tmp_path: Path, postgres: PostgresServer
) -> None:
    add(settings, "dev-moved")
    exported = export(settings, tmp_path / "audit.jsonl")
    there = settings.model_copy(update={"database_url": postgres.database()})

    with exported.open("rb") as file:
        rebuilding.rebuild(there, file, actor="local:ada", reason="disk", now=NOON)

    store = Store(there.store_url)
    with store.transaction() as tx:
        before = devices.get(tx, "dev-moved").enrolment_number
        enrol(tx, EnrolledDevice("dev-after"))
        assert devices.get(tx, "dev-after").enrolment_number > before
    store.close()


def test_what_a_killed_backup_left_is_taken_away_by_a_later_one(
    settings: ControllerSettings, tmp_path: Path
) -> None:
    left, under_way = (settings.data_dir / f"{making.SCRATCH_PREFIX}{each}" for each in "ab")
    for each in (left, under_way):
        each.mkdir()
        (each / "mailboat.db").write_bytes(b"in the clear")
    old = NOON.timestamp() - making.SCRATCH_SECONDS_MAX - 1
    os.utime(left, (old, old))

    make(settings, tmp_path / "b.backup")

    assert not left.exists()
    assert under_way.exists()
    shutil.rmtree(under_way)


def test_a_file_that_is_replaced_while_it_is_read_is_kept_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, kept = tmp_path / "key.pem", io.BytesIO()
    new = tmp_path / "new"
    path.write_bytes(b"the whole old key")
    new.write_bytes(b"new")
    opened = Path.open

    def replaced_at_once(self: Path, *words: str) -> IO[bytes]:
        file = opened(self, *words)
        if self == path:
            new.replace(path)
        return file  # type: ignore[return-value]

    writer = archive.Writer(kept, lambda _count: None)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", replaced_at_once)
        writer.add("keys/key.pem", path)
    writer.finish(MANIFEST)

    archive.read(io.BytesIO(kept.getvalue()), tmp_path / "out", lambda _count: None)
    assert (tmp_path / "out/keys/key.pem").read_bytes() == b"the whole old key"


def test_a_backup_whose_settings_name_another_directory_is_not_restored_beside_it(
    settings: ControllerSettings, tmp_path: Path
) -> None:
    file = settings.data_dir / "controller.toml"
    before = file.read_text()
    elsewhere = tmp_path / "elsewhere"
    file.write_text(before.replace('data_dir = "."', f'data_dir = "{elsewhere}"'))
    try:
        path = make(settings, tmp_path / "b.backup").path
    finally:
        file.write_text(before)

    with pytest.raises(ConfigurationInvalid, match="elsewhere"):
        restore(path, tmp_path / "new")
    assert not elsewhere.exists()
    restore(path, elsewhere)
    assert (elsewhere / "keys").is_dir()

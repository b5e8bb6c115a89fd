"""What a stick may hold instead: each is refused with a next step, and nothing of it is kept."""

import os
import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from carrying import config_of, export, timestamp_of
from mailboat_agent.artifacts.release_store import ReleaseStore
from mailboat_agent.atomic_file import DiskFailing
from mailboat_agent.carrier import importing
from mailboat_agent.carrier.importing import Imported, import_carrier
from mailboat_agent.carrier.opening import CarrierUnreadable, open_carrier
from mailboat_agent.carrier.spool import ImportSpool
from mailboat_agent.state_file import StateFile
from mailboat_agent.trust.manifest import Counter, Manifest
from mailboat_agent.trust.trust_store import TrustStore
from mailboat_agent.update.state import DeviceState
from mailboat_schemas.carrier import (
    BLOCK_BYTES,
    CONTENTS_NAME,
    MANIFEST_NAME,
    CarrierDamaged,
    Contents,
    NotACarrier,
    carrier_bytes,
    header,
    members,
)
from mailboat_schemas.errors import (
    ClockUntrusted,
    Conflict,
    DiskFull,
    MailboatError,
    RollbackRefused,
    TrustRefused,
    TrustStale,
    WrongClass,
    WrongFleet,
)
from model_fleet import ModelFleet
from trust_fleet import CLASS, FLEET

Import = Callable[..., Imported]


@pytest.fixture
def stick(tmp_path: Path, fleet: ModelFleet) -> Path:
    path = tmp_path / "release.mailboat"
    export(path, fleet, fleet.current(fleet.model_release("1.0.0")))
    return path


@pytest.fixture
def bring(data_dir: Path, fleet: ModelFleet) -> Import:
    def bring(file: Path, *, ahead: timedelta = timedelta(), **settings: object) -> Imported:
        now = datetime.now(UTC) + ahead
        config = config_of(data_dir, fleet).model_copy(update=settings)
        return import_carrier(file, config, now=now, on_progress=lambda _done, _total: None)

    return bring


def refused(bring: Import, file: Path, kind: type[MailboatError], **how: object) -> MailboatError:
    with pytest.raises(kind) as caught:
        bring(file, **how)
    assert caught.value.next_step
    return caught.value


def spooled(data_dir: Path) -> set[str]:
    directory = data_dir / "import"
    return {path.name for path in directory.iterdir()} - {"lock"} if directory.is_dir() else set()


def changed(path: Path, offset: int, content: bytes | None = None) -> None:
    """Other bytes at a place; one bit flipped if none are given."""
    with path.open("r+b") as file:
        file.seek(offset)
        found = file.read(1 if content is None else len(content))
        file.seek(offset)
        file.write(bytes([found[0] ^ 0x10]) if content is None else content)


# --- the file ------------------------------------------------------------------------------------


def test_what_is_no_file_is_not_read(bring: Import, stick: Path, tmp_path: Path) -> None:
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(stick)

    assert "directory" in refused(bring, tmp_path, NotACarrier).what
    assert "named pipe" in refused(bring, pipe, NotACarrier).what
    assert "symbolic link" in refused(bring, link, NotACarrier).what
    assert "device" in refused(bring, Path("/dev/zero"), NotACarrier).what
    refused(bring, tmp_path / "nothing", CarrierUnreadable)


def test_a_file_that_is_swapped_for_a_link_after_the_look_is_not_followed(
    bring: Import, stick: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    regular, link = stick.lstat(), tmp_path / "link"
    link.symlink_to(stick)

    monkeypatch.setattr(Path, "lstat", lambda _path: regular)
    refused(bring, link, CarrierUnreadable)


@pytest.mark.parametrize("content", [b"", b"x", b"\0" * 5000, b"PK\x03\x04" + bytes(9000)])
def test_another_kind_of_file_is_told_from_a_damaged_one(
    bring: Import, tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "f"
    file.write_bytes(content)

    refused(bring, file, NotACarrier if len(content) > BLOCK_BYTES else MailboatError)


@pytest.mark.slow
def test_the_same_files_packed_anew_are_not_taken(
    bring: Import, stick: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "unpacked"
    folder.mkdir()
    subprocess.run(["tar", "xf", stick, "-C", folder], check=True)
    names = [CONTENTS_NAME, "manifest", "timestamp", "artifacts"]
    subprocess.run(["tar", "cf", tmp_path / "again", "-C", folder, *names], check=True)

    refused(bring, tmp_path / "again", NotACarrier)


def test_a_file_cut_anywhere_is_refused_before_anything_is_copied(
    bring: Import, stick: Path, data_dir: Path
) -> None:
    whole = stick.stat().st_size
    for length in (whole - 1, whole - BLOCK_BYTES, whole // 2, 2000):
        os.truncate(stick, length)
        refused(bring, stick, CarrierDamaged)
    assert spooled(data_dir) == set()


def test_a_file_with_something_behind_it_is_refused(bring: Import, stick: Path) -> None:
    with stick.open("ab") as file:
        file.write(b"x")

    refused(bring, stick, CarrierDamaged)


@pytest.mark.slow
def test_a_bit_flipped_in_any_part_is_noticed(
    bring: Import, stick: Path, data_dir: Path, fleet: ModelFleet, tmp_path: Path
) -> None:
    contents = export(tmp_path / "same", fleet, fleet.current(fleet.model_release("1.1.0")))
    parts = list(members(contents))
    places = [
        0,
        BLOCK_BYTES + 20,
        *(m.header_offset + 5 for m in parts),
        *(m.offset for m in parts),
    ]
    for place in places:
        shutil.rmtree(data_dir / "import", ignore_errors=True)
        stick.write_bytes((tmp_path / "same").read_bytes())
        changed(stick, place)
        with pytest.raises((NotACarrier, CarrierDamaged)):
            bring(stick)
        assert not [name for name in spooled(data_dir) if name == "manifest" or ".part" in name]


def test_a_sparse_file_of_holes_costs_nothing_but_its_own_length(
    bring: Import, tmp_path: Path, fleet: ModelFleet, data_dir: Path
) -> None:
    """Its table of contents is well made and promises a file of eight gigabytes: nobody signed for
    it, so not one byte of it is read or written. What is wanted lies behind it."""
    contents = export(tmp_path / "f", fleet, fleet.current(fleet.model_release("1.0.0")))
    huge = contents.artifacts[-1].model_copy(update={"sha256": "ab" * 32, "length": 8 << 30})
    lying = contents.model_copy(update={"artifacts": (huge, *contents.artifacts)})
    bomb = rewritten(tmp_path / "f", contents, lying)

    assert bomb.stat().st_size > 8 << 30
    assert bring(bomb).copied_files == 2
    assert "ab" * 32 not in spooled(data_dir)
    os.truncate(bomb, carrier_bytes(lying) - 1)
    assert "bytes and should have" in refused(bring, bomb, CarrierDamaged).what


def rewritten(path: Path, contents: Contents, other: Contents) -> Path:
    """The same small files and artifacts behind another table of contents; holes elsewhere."""
    whole = path.read_bytes()
    pieces = {
        member.name: whole[member.offset : member.offset + member.file.length]
        for member in members(contents)
    }
    encoded = other.encoded()
    again = path.with_name(path.name + ".lying")
    with again.open("wb") as file:
        file.write(header(CONTENTS_NAME, len(encoded)) + encoded)
        for member in members(other):
            file.seek(member.header_offset)
            file.write(header(member.name, member.file.length) + pieces.get(member.name, b""))
    os.truncate(again, carrier_bytes(other))
    return again


def test_a_file_that_lies_about_a_length_that_was_signed_is_refused(
    bring: Import, tmp_path: Path, fleet: ModelFleet
) -> None:
    contents = export(tmp_path / "f", fleet, fleet.current(fleet.model_release("1.0.0")))
    first, *others = contents.artifacts
    longer = first.model_copy(update={"length": first.length + BLOCK_BYTES})
    lying = contents.model_copy(update={"artifacts": (longer, *others)})
    file = rewritten(tmp_path / "f", contents, lying)

    error = refused(bring, file, CarrierDamaged)
    assert "another length than its release says" in error.what


def test_a_stick_that_is_pulled_out_half_way_keeps_what_was_copied(
    bring: Import, stick: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pread, reads = os.pread, []

    def until_pulled_out(descriptor: int, count: int, offset: int) -> bytes:
        reads.append(offset)
        if len(reads) > 10:
            raise OSError(5, "Input/output error")
        return pread(descriptor, count, offset)

    monkeypatch.setattr(os, "pread", until_pulled_out)
    error = refused(bring, stick, CarrierUnreadable)
    assert "plug it in again" in error.next_step
    copied = spooled(data_dir)
    assert len(copied) == 1
    assert "manifest" not in copied

    monkeypatch.setattr(os, "pread", pread)
    assert bring(stick).copied_files == 1
    assert len(spooled(data_dir)) == 4


def test_a_stick_that_can_only_be_read_is_enough(bring: Import, stick: Path) -> None:
    stick.chmod(0o400)
    stick.parent.chmod(0o500)
    try:
        assert bring(stick).copied_files == 2
    finally:
        stick.parent.chmod(0o700)


# --- what it says --------------------------------------------------------------------------------


def test_a_file_for_others_says_so_in_words_for_who_stands_there(
    bring: Import, stick: Path, data_dir: Path
) -> None:
    error = refused(bring, stick, WrongClass, hardware_class="gateway-arm")
    assert "export --class gateway-arm" in error.next_step
    refused(bring, stick, WrongFleet, fleet="other")
    assert spooled(data_dir) == set()


def test_a_file_of_another_fleet_of_the_same_name_does_not_hold(
    bring: Import, tmp_path: Path, data_dir: Path
) -> None:
    stranger = ModelFleet(tmp_path / "stranger")
    export(tmp_path / "f", stranger, stranger.current(stranger.model_release("1.0.0")))

    refused(bring, tmp_path / "f", TrustRefused)
    assert spooled(data_dir) == set()


def test_a_release_that_nobody_approved_is_not_copied(
    bring: Import, tmp_path: Path, fleet: ModelFleet, data_dir: Path
) -> None:
    unapproved = fleet.model_release("2.0.0", approve=False)
    export(tmp_path / "f", fleet, fleet.current(unapproved))

    imported = bring(tmp_path / "f")
    assert (imported.releases, imported.copied_files) == ((), 0)
    assert spooled(data_dir) == {"manifest", "timestamp"}


def test_an_older_file_than_the_device_was_told_is_refused(
    bring: Import, stick: Path, tmp_path: Path, fleet: ModelFleet, data_dir: Path
) -> None:
    export(tmp_path / "newer", fleet, fleet.current(fleet.model_release("1.1.0", factor=3.0)))
    take_in(bring, tmp_path / "newer", data_dir, fleet)

    error = refused(bring, stick, RollbackRefused)
    assert error.code == "E-ROLLBACK"


def take_in(bring: Import, file: Path, data_dir: Path, fleet: ModelFleet) -> None:
    """As the agent does: trust, manifest, counter and files."""
    bring(file)
    with open_carrier(file) as reader:
        payload = reader.read(MANIFEST_NAME)
        files = {each.sha256: each.length for each in reader.contents.artifacts}
    trust, store = TrustStore(data_dir, fleet.factory_root), ReleaseStore(data_dir)
    manifest = Manifest(trust=trust, store=store, fleet=FLEET, hardware_class=CLASS)
    counter = manifest.take(payload, [], Counter(0, ""))
    assert counter is not None
    StateFile(data_dir).save(
        DeviceState(manifest_counter=counter.value, director_keyid=counter.director_keyid)
    )
    for digest, length in files.items():
        assert ImportSpool(data_dir).move_into(store, digest, length)


def test_a_file_exported_too_long_ago_asks_for_a_new_one(
    tmp_path: Path, data_dir: Path, first_fleet: ModelFleet
) -> None:
    old = first_fleet.copied()
    old.now = first_fleet.now - timedelta(days=60)
    old.resign()
    export(tmp_path / "f", old, old.current(old.model_release("1.0.0")))
    config = config_of(data_dir, old)

    with pytest.raises(TrustStale) as caught:
        import_carrier(
            tmp_path / "f", config, now=datetime.now(UTC), on_progress=lambda _done, _total: None
        )
    assert "exported too long ago" in caught.value.what
    assert "export the file again" in caught.value.next_step
    assert spooled(data_dir) == set()


def test_the_carried_timestamp_makes_up_for_a_manifest_that_is_older(
    tmp_path: Path, data_dir: Path, first_fleet: ModelFleet
) -> None:
    fleet = first_fleet.copied()
    fleet.now = first_fleet.now - timedelta(days=10)
    fleet.resign()
    bundle = fleet.current(fleet.model_release("1.0.0"))
    fleet.now = first_fleet.now
    fleet.roles["timestamp"] = fleet.online.sign_timestamp(
        fleet.roles["timestamp"], fleet.roles["snapshot"], now=fleet.now
    )
    export(tmp_path / "f", fleet, bundle, timestamp=timestamp_of(fleet))

    imported = import_carrier(
        tmp_path / "f",
        config_of(data_dir, fleet),
        now=datetime.now(UTC),
        on_progress=lambda _done, _total: None,
    )
    assert imported.releases == ("vad 1.0.0",)


def test_a_clock_that_stands_before_the_last_known_time_is_to_be_set_first(
    bring: Import, stick: Path
) -> None:
    error = refused(bring, stick, ClockUntrusted, ahead=timedelta(days=-3650))
    assert "set the device's clock" in error.next_step


# --- the device ----------------------------------------------------------------------------------


def test_a_device_without_room_is_told_before_anything_is_copied(
    bring: Import, stick: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "DISK_MARGIN_BYTES", 1 << 60)

    error = refused(bring, stick, DiskFull)
    assert "bytes are to be copied" in error.what
    assert spooled(data_dir) == set()


def test_a_disk_that_fails_while_it_is_written_leaves_no_part(
    bring: Import, stick: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_descriptor: int, _content: bytes) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(importing, "write_all", broken)
    refused(bring, stick, DiskFailing)
    assert spooled(data_dir) == set()


def test_two_imports_do_not_run_at_once(bring: Import, stick: Path, data_dir: Path) -> None:
    spool = ImportSpool(data_dir)
    spool.directory.mkdir()
    with spool.locked():
        refused(bring, stick, Conflict)
    assert bring(stick).copied_files == 2

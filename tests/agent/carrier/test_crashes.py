"""An import that dies, or is refused by the disk, before any of its system calls."""

import errno
from datetime import UTC, datetime
from pathlib import Path

import pytest

from carrying import config_of, export
from kill_points import killed_at_each_point, refused_at_each_point
from mailboat_agent.artifacts.release_store import ReleaseStore
from mailboat_agent.atomic_file import DiskFailing
from mailboat_agent.carrier import preview
from mailboat_agent.carrier.importing import import_carrier
from mailboat_agent.carrier.opening import open_carrier
from mailboat_agent.carrier.spool import ImportSpool
from mailboat_schemas.errors import DiskFull, MailboatError
from model_fleet import ModelFleet


@pytest.fixture
def stick(fleet: ModelFleet, tmp_path: Path) -> Path:
    export(tmp_path / "stick", fleet, fleet.current(fleet.model_release("1.0.0")))
    return tmp_path / "stick"


def prepare(directory: Path) -> None:
    (directory / "data").mkdir()


def check(directory: Path, fleet: ModelFleet, stick: Path) -> None:
    """What lies under a digest is of that digest, and a manifest only when everything is there.
    The same command then brings it to its end."""
    spool = ImportSpool(directory / "data")
    lengths = {digest: len(content) for digest, content in fleet.artifacts.items()}
    for digest, content in fleet.artifacts.items():
        if spool.path(digest).exists():
            assert spool.path(digest).read_bytes() == content
    if spool.stamp() is not None:
        assert all(spool.has(digest, length) for digest, length in lengths.items())
    bring(directory, fleet, stick)
    assert spool.stamp() is not None
    assert all(spool.has(digest, length) for digest, length in lengths.items())
    assert not list(spool.directory.glob("*.part"))


def bring(directory: Path, fleet: ModelFleet, stick: Path) -> None:
    import_carrier(
        stick,
        config_of(directory / "data", fleet),
        now=datetime.now(UTC),
        on_progress=lambda _done, _total: None,
    )


@pytest.fixture
def _looked_at_before(
    fleet: ModelFleet, stick: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is looked at in a copy elsewhere may fail too, and long; that is not the device's."""
    with open_carrier(stick) as reader:
        manifest, timestamp = reader.read("manifest"), reader.read("timestamp")
    config = config_of(tmp_path / "nothing", fleet)
    seen = preview.preview(config, manifest, timestamp, now=datetime.now(UTC))
    monkeypatch.setattr("mailboat_agent.carrier.importing.preview", lambda *_parts: seen)


@pytest.mark.slow
@pytest.mark.usefixtures("_looked_at_before")
def test_an_import_killed_anywhere_is_finished_by_running_it_again(
    fleet: ModelFleet, stick: Path, tmp_path: Path
) -> None:
    points = 0
    for directory in killed_at_each_point(
        tmp_path, prepare, lambda directory: bring(directory, fleet, stick)
    ):
        check(directory, fleet, stick)
        points += 1
    assert points > 20


@pytest.mark.slow
@pytest.mark.usefixtures("_looked_at_before")
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC, errno.EROFS])
def test_an_import_that_the_disk_refuses_anywhere_is_finished_by_running_it_again(
    fleet: ModelFleet,
    stick: Path,
    tmp_path: Path,
    error: int,
) -> None:
    for directory in refused_at_each_point(
        tmp_path,
        prepare,
        lambda directory: bring(directory, fleet, stick),
        error=error,
        expected=(MailboatError,),
    ):
        check(directory, fleet, stick)


@pytest.mark.slow
@pytest.mark.slow
def test_a_file_is_taken_up_once_however_often_the_power_fails(
    fleet: ModelFleet, tmp_path: Path
) -> None:
    fleet.model_release("1.0.0")
    digest, content = next(iter(fleet.artifacts.items()))

    def spooled(directory: Path) -> None:
        spool = ImportSpool(directory / "data")
        spool.directory.mkdir(parents=True)
        spool.path(digest).write_bytes(content)

    def take_up(directory: Path) -> None:
        store = ReleaseStore(directory / "data")
        if not ImportSpool(directory / "data").move_into(store, digest, len(content)):
            store.admit(digest, len(content))  # it was moved, as far as staging

    def prepared(directory: Path) -> None:
        spooled(directory)
        ReleaseStore(directory / "data")

    for directory in killed_at_each_point(tmp_path, prepared, take_up):
        take_up(directory)
        store = ReleaseStore(directory / "data")
        assert store.read_verified(digest, 1 << 20) == content
        assert ImportSpool(directory / "data").imported_bytes({digest: len(content)})


@pytest.mark.slow
def test_a_full_disk_keeps_what_was_to_be_taken_up(fleet: ModelFleet, tmp_path: Path) -> None:
    fleet.model_release("1.0.0")
    digest, content = next(iter(fleet.artifacts.items()))

    def prepared(directory: Path) -> None:
        spool = ImportSpool(directory / "data")
        spool.directory.mkdir(parents=True)
        spool.path(digest).write_bytes(content)
        ReleaseStore(directory / "data")

    def take_up(directory: Path) -> None:
        store = ReleaseStore(directory / "data")
        ImportSpool(directory / "data").move_into(store, digest, len(content))

    for directory in refused_at_each_point(
        tmp_path, prepared, take_up, error=errno.ENOSPC, expected=(DiskFull, DiskFailing)
    ):
        take_up(directory)
        store = ReleaseStore(directory / "data")
        if not store.has(digest) and store.staging_path(digest).exists():
            store.admit(digest, len(content))
        # After a failed fsync nobody knows which bytes reached the disk: those are fetched again.
        assert store.has(digest) or not ImportSpool(directory / "data").path(digest).exists()

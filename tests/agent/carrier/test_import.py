"""An import from a file to a device that serves, on real files, real trust and real workers."""

import errno
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from carrying import config_of, export
from islands import Island, Story
from mailboat_agent.carrier.importing import Imported, import_carrier
from mailboat_agent.carrier.spool import ImportSpool
from mailboat_schemas.deltas import Source, delivery_of
from mailboat_schemas.events import EventKind
from model_fleet import ArtifactServer, ModelFleet

Play = Callable[[Story], None]


def bring(file: Path, data_dir: Path, fleet: ModelFleet, now: datetime | None = None) -> Imported:
    return import_carrier(
        file,
        config_of(data_dir, fleet),
        now=now or datetime.now(UTC),
        on_progress=lambda _done, _total: None,
    )


def test_a_device_that_never_had_a_network_serves_what_was_carried_to_it(
    play: Play, fleet: ModelFleet, data_dir: Path, tmp_path: Path, empty_server: ArtifactServer
) -> None:
    stick = tmp_path / "release.mailboat"
    export(stick, fleet, fleet.current(fleet.model_release("1.0.0")))
    imported = bring(stick, data_dir, fleet)
    assert (imported.releases, imported.copied_files) == (("vad 1.0.0",), 2)

    async def story(island: Island) -> None:
        await island.until(lambda: island.committed("1.0.0"))
        assert empty_server.requests == []
        assert island.spool.stamp() is None
        started = next(e for e in island.events() if e.kind is EventKind.TRIAL_STARTED)
        delivery = delivery_of(started.evidence)
        assert delivery is not None
        assert delivery.source_bytes == {Source.IMPORT: imported.copied_bytes}
        assert delivery.fetched_bytes == 0
        await island.step()
        assert list(island.spool.directory.glob("[0-9a-f]*")) == []

    play(story)


@pytest.mark.slow
def test_a_running_agent_takes_it_up_beside_what_it_serves(
    play: Play, fleet: ModelFleet, data_dir: Path, tmp_path: Path
) -> None:
    a, b = fleet.model_release("1.0.0"), fleet.model_release("1.1.0", factor=3.0)
    first, second = tmp_path / "a", tmp_path / "b"
    export(first, fleet, fleet.current(a))
    export(second, fleet, fleet.offered(b, a))

    async def story(island: Island) -> None:
        bring(first, data_dir, fleet)
        await island.until(lambda: island.committed("1.0.0"))
        imported = bring(second, data_dir, fleet)
        assert (imported.copied_files, imported.held_files) == (2, 2)
        await island.until(lambda: island.committed("1.1.0"))

    play(story)


@pytest.mark.slow
def test_where_it_came_from_is_known_after_a_power_cut_in_the_middle(
    play: Play, fleet: ModelFleet, data_dir: Path, tmp_path: Path
) -> None:
    export(tmp_path / "f", fleet, fleet.current(fleet.model_release("1.0.0")))
    imported = bring(tmp_path / "f", data_dir, fleet)

    async def story(island: Island) -> None:
        await island.until(lambda: not list(island.spool.directory.glob("[0-9a-f]" * 64)))
        await island.restart()
        await island.until(lambda: island.committed("1.0.0"))
        started = next(e for e in island.events() if e.kind is EventKind.TRIAL_STARTED)
        delivery = delivery_of(started.evidence)
        assert delivery is not None
        assert delivery.source_bytes == {Source.IMPORT: imported.copied_bytes}
        assert island.spool.imported_bytes(dict.fromkeys(fleet.artifacts, 1)) == 0

    play(story)


@pytest.mark.slow
def test_files_that_a_thin_link_could_not_bring_come_on_a_stick(
    play: Play, fleet: ModelFleet, data_dir: Path, tmp_path: Path
) -> None:
    bundle = fleet.current(fleet.model_release("1.0.0"))
    export(tmp_path / "f", fleet, bundle)

    async def story(island: Island) -> None:
        island.take(bundle)  # by MQTT; the artifacts do not come
        for _ in range(3):
            await island.step()
        assert not island.committed("1.0.0")
        bring(tmp_path / "f", data_dir, fleet)
        await island.until(lambda: island.committed("1.0.0"))

    play(story)


@pytest.mark.slow
def test_an_older_file_still_brings_the_files_that_the_newer_manifest_asks_for(
    play: Play, fleet: ModelFleet, data_dir: Path, tmp_path: Path
) -> None:
    a, b = fleet.model_release("1.0.0"), fleet.model_release("1.1.0", factor=3.0)
    export(tmp_path / "old", fleet, fleet.current(b))
    newer = fleet.offered(b, a)

    async def story(island: Island) -> None:
        island.take(newer)
        imported = bring(tmp_path / "old", data_dir, fleet)
        assert imported.older_than_held
        assert imported.lacking_files == 2  # of 1.0.0
        await island.until(lambda: island.committed("1.1.0"))
        assert island.ledger.state.manifest_counter == 2

    play(story)


@pytest.mark.slow
def test_a_copy_that_rots_in_the_spool_is_not_served(
    play: Play, fleet: ModelFleet, data_dir: Path, tmp_path: Path, empty_server: ArtifactServer
) -> None:
    contents = export(tmp_path / "f", fleet, fleet.current(fleet.model_release("1.0.0")))
    bring(tmp_path / "f", data_dir, fleet)
    copy = ImportSpool(data_dir).path(contents.artifacts[0].sha256)
    content = bytearray(copy.read_bytes())
    content[0] ^= 1
    copy.write_bytes(content)

    async def story(island: Island) -> None:
        for _ in range(20):
            await island.step()
        assert "trial_started 1.0.0" not in island.told()
        empty_server.artifacts.update(fleet.artifacts)  # a network, at last
        bring(tmp_path / "f", data_dir, fleet)
        await island.until(lambda: island.committed("1.0.0"))

    play(story)


@pytest.mark.slow
def test_an_import_may_be_repeated(
    play: Play, fleet: ModelFleet, data_dir: Path, tmp_path: Path
) -> None:
    export(tmp_path / "f", fleet, fleet.current(fleet.model_release("1.0.0")))
    assert bring(tmp_path / "f", data_dir, fleet).copied_files == 2
    assert bring(tmp_path / "f", data_dir, fleet).copied_files == 0

    async def story(island: Island) -> None:
        await island.until(lambda: island.committed("1.0.0"))
        assert bring(tmp_path / "f", data_dir, fleet).held_files == 2
        await island.step()
        assert island.spool.stamp() is None
        assert island.told().count("trial_started 1.0.0") == 1

    play(story)


@pytest.mark.slow
def test_what_no_release_asks_for_does_not_stay_in_the_spool(
    play: Play, fleet: ModelFleet, data_dir: Path, tmp_path: Path
) -> None:
    export(tmp_path / "f", fleet, fleet.current(fleet.model_release("1.0.0")))
    spool = ImportSpool(data_dir)
    spool.directory.mkdir()
    leftover = spool.part_path("ab" * 32)  # of an import that was killed
    leftover.write_bytes(b"half")
    bring(tmp_path / "f", data_dir, fleet)
    assert leftover.exists()

    async def story(island: Island) -> None:
        await island.until(lambda: island.committed("1.0.0"))
        await island.step()
        assert not leftover.exists()

    play(story)


@pytest.mark.slow
def test_what_waits_for_the_clock_survives_a_restart(
    play: Play, fleet: ModelFleet, data_dir: Path, tmp_path: Path
) -> None:
    export(tmp_path / "f", fleet, fleet.current(fleet.model_release("1.0.0")))
    bring(tmp_path / "f", data_dir, fleet)

    async def story(island: Island) -> None:
        island.clock_offset = timedelta(days=-4000)  # its battery was empty
        for _ in range(3):
            await island.step()
        assert island.spool.stamp() is not None
        assert island.told() == ["clock_untrusted"]
        await island.restart()
        island.clock_offset = timedelta()
        await island.until(lambda: island.committed("1.0.0"))
        assert island.spool.stamp() is None

    play(story)


@pytest.mark.slow
def test_a_refused_manifest_does_not_stay_in_the_spool(
    play: Play, fleet: ModelFleet, data_dir: Path
) -> None:
    async def story(island: Island) -> None:
        island.spool.directory.mkdir()
        island.spool.hand_over(b"nonsense", b"nonsense")
        await island.step()
        assert island.spool.stamp() is None
        assert island.told() == ["manifest_refused"]

    play(story)


def test_a_dead_disk_under_the_spool_does_not_end_the_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose file came from where is of less use than what serves."""
    spool = ImportSpool(tmp_path)
    spool.directory.mkdir()
    (spool.directory / "origins.json").write_text(json.dumps({"a" * 64: 5}))

    def full(_descriptor: int, _content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)

    assert spool.collect_garbage(frozenset()) == 0
    spool.forget_origins({"a" * 64})


def test_a_directory_in_place_of_the_manifest_is_nothing_to_take_up(tmp_path: Path) -> None:
    spool = ImportSpool(tmp_path)
    (spool.directory / "manifest").mkdir(parents=True)

    assert spool.stamp() is None

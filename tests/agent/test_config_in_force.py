"""Config on a device: merged from what people signed, in force when it goes with what runs."""

import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agent_box import AgentBox, Play, device_facts
from mailboat_agent import atomic_file
from mailboat_agent.artifacts.release_store import ReleaseStore
from mailboat_agent.facts import Device
from mailboat_agent.overlays import record
from mailboat_agent.overlays.command import config_in_force, describe_config, in_words
from mailboat_agent.overlays.documents import FleetDocuments
from mailboat_agent.overlays.in_force import ConfigInForce
from mailboat_agent.overlays.record import (
    COPY,
    EARLIER_MAX,
    RECORD,
    RECORD_BYTES_MAX,
    ConfigRecord,
)
from mailboat_agent.serving.gateway import Gateway
from mailboat_agent.serving.runtime import Runtime
from mailboat_agent.trust.manifest import Counter, Manifest
from mailboat_agent.trust.trust_store import TrustStore
from mailboat_schemas.desired import Assignment, ReleaseRef
from mailboat_schemas.device_orders import DeviceDesired
from mailboat_schemas.documents.release import Compatibility
from mailboat_schemas.errors import DiskFull, TrustRefused
from mailboat_schemas.fleet_documents import Place
from mailboat_schemas.overlays import Running
from model_fleet import CLASS, DEVICE, FLEET, MODEL, ModelFleet
from signed_config import config_document, sign_config, withdraw_config
from trust_fleet import TrustFleet

SITE = "harbour"


def running(version: str, config: str = "") -> list[Running]:
    ranges = Compatibility(config=config)
    return [Running(model=MODEL, version=version, compatibility=ranges)]


class Here:
    """A device's data directory; ``look`` is one look at what it was brought."""

    def __init__(self, directory: Path) -> None:
        self.fleet = TrustFleet(directory / "ceremony")
        self.data = directory / "data"
        self.data.mkdir()
        self.file = directory / "app" / "config.json"
        self.file.parent.mkdir()
        self.counter = Counter(0, "")
        self.start()

    def start(self) -> None:
        self.device: Device = device_facts(site=SITE)
        trust = TrustStore(self.data, self.fleet.factory_root)
        self.manifest = Manifest(
            trust=trust, store=ReleaseStore(self.data), fleet=FLEET, hardware_class=CLASS
        )
        self.manifest.open([])
        self.config = ConfigInForce(self.data, self.device, self.manifest, file=self.file)
        self.config.open()

    def hear(self, *assignments: Assignment) -> None:
        counter = self.manifest.take(self.fleet.bundle(*assignments), [], self.counter)
        assert counter is not None
        self.counter = counter

    def look(self, *serving: Running) -> bool:
        return self.config.look(serving)

    @property
    def values(self) -> Any:
        return json.loads(self.config.shown.content)

    @property
    def titles(self) -> str:
        return self.config.shown.titles


@pytest.fixture
def here(tmp_path: Path) -> Here:
    return Here(tmp_path)


def test_a_device_nobody_signed_a_config_for_shows_an_empty_one(here: Here) -> None:
    here.hear()

    assert not here.look()
    assert here.values == {}
    assert here.config.reported() is None


def test_class_site_and_device_are_merged_in_this_order(here: Here) -> None:
    sign_config(here.fleet, config_document(values={"a": 1, "b": {"x": 1, "y": 1}, "c": [1, 2]}))
    site = config_document(values={"b": {"x": 2}, "c": None}, level="site", target=SITE)
    sign_config(here.fleet, site)
    own = config_document(values={"b": {"z": 3}}, level="device", target=DEVICE)
    own_entry = sign_config(here.fleet, own, brought=False)
    elsewhere = config_document(values={"a": 99}, level="site", target="inland")
    sign_config(here.fleet, elsewhere)
    here.hear()
    here.device.order = DeviceDesired(
        fleet=FLEET,
        device=DEVICE,
        counter=1,
        issued=0,
        documents={own_entry.digest: own.canonical_bytes()},
    )

    assert here.look()
    assert here.values == {"a": 1, "b": {"x": 2, "y": 1, "z": 3}}
    assert json.loads(here.file.read_bytes()) == here.values
    told = here.config.reported()
    assert told is not None
    assert [layer.level for layer in told.layers] == ["class", "site", "device"]
    assert told.digest == here.config.shown.digest


def test_what_has_not_come_yet_keeps_the_old_config_and_says_so(here: Here) -> None:
    sign_config(here.fleet, config_document("1.0.0"))
    here.hear()
    here.look()
    own = config_document("1.0.0", level="device", target=DEVICE, values={"gain": 5})
    sign_config(here.fleet, own, brought=False)
    here.hear()

    assert not here.look()
    assert here.values == {"gain": 1}
    assert here.config.notes() == ["config_refused:E-CONFIG-ON-ITS-WAY"]


def test_documents_of_releases_in_the_bundle_take_up_no_memory(here: Here) -> None:
    here.fleet.release("1.0.0")
    entry = sign_config(here.fleet, config_document())
    here.hear()

    assert list(FleetDocuments(here.manifest, here.device).brought()) == [entry.digest]


def test_a_restart_without_network_or_manifest_goes_by_what_was_in_force(here: Here) -> None:
    sign_config(here.fleet, config_document(values={"gain": 7}))
    here.hear()
    here.look()
    for path in (here.data / "manifests").iterdir():
        path.unlink()
    here.file.unlink()
    here.start()

    assert here.values == {"gain": 7}
    assert json.loads(here.file.read_bytes()) == {"gain": 7}
    assert not here.look()
    assert here.values == {"gain": 7}


def test_a_damaged_record_is_read_from_its_copy_and_never_stops_the_device(here: Here) -> None:
    sign_config(here.fleet, config_document(values={"gain": 7}))
    here.hear()
    here.look()
    for damage in (b"", b"\0" * 4096, b"deadbeef\n{}", b"\xff" * 10):
        (here.data / RECORD).write_bytes(damage)
        here.start()
        assert here.values == {"gain": 7}
        for name in (RECORD, COPY):  # the one was written again from the other
            (here.data / name).write_bytes(damage)
        here.start()
        assert here.values == {}
        assert here.look()  # and heals from the manifest
        assert here.values == {"gain": 7}


def test_a_config_that_does_not_go_with_what_runs_waits_and_the_old_one_stays(here: Here) -> None:
    sign_config(here.fleet, config_document("1.0.0"))
    here.hear()
    here.look(*running("6.0.0", "<2"))
    sign_config(here.fleet, config_document("2.0.0", {"gain": 2}))
    here.hear()

    assert not here.look(*running("6.0.0", "<2"))
    assert here.titles == "defaults 1.0.0"
    assert here.config.notes() == ["config_waits"]
    assert "defaults 2.0.0 is not <2" in here.device.config.because
    assert here.device.config.kept_by == {MODEL}


def test_a_config_comes_with_the_model_it_is_for_and_goes_back_with_it(here: Here) -> None:
    sign_config(here.fleet, config_document("1.0.0", {"gain": 1}, models={MODEL: "<7"}))
    here.hear()
    here.look(*running("6.0.0"))
    sign_config(here.fleet, config_document("2.0.0", {"gain": 2}, models={MODEL: ">=7"}))
    here.hear()
    here.look(*running("6.0.0"))
    assert here.values == {"gain": 1}

    assert here.look(*running("7.0.0"))
    assert here.values == {"gain": 2}
    here.start()  # a power cut in between changes nothing
    assert here.look(*running("6.0.0"))
    assert here.values == {"gain": 1}
    assert here.config.notes() == ["config_waits"]


def test_a_device_goes_back_over_two_releases_with_a_config_of_their_own(here: Here) -> None:
    for major in (6, 7, 8):
        ranges = {MODEL: f"~={major}.0"}
        sign_config(here.fleet, config_document(f"{major}.0.0", {"gain": major}, models=ranges))
        here.hear()
        assert here.look(*running(f"{major}.0.0"))

    here.start()
    assert here.look(*running("6.0.0"))
    assert here.values == {"gain": 6}
    assert here.config.notes() == ["config_waits"]


def test_as_many_configs_are_kept_as_the_record_may_hold_and_the_rest_are_told(
    here: Here,
) -> None:
    for major in range(1, EARLIER_MAX + 3):
        ranges = {MODEL: f"~={major}.0"}
        sign_config(here.fleet, config_document(f"{major}.0.0", {"gain": major}, models=ranges))
        here.hear()
        assert here.look(*running(f"{major}.0.0"))

    here.look(*running("1.0.0"))
    assert here.values == {"gain": EARLIER_MAX + 2}
    assert here.config.notes() == ["config_unfit"]
    assert here.look(*running("2.0.0"))
    assert here.values == {"gain": 2}
    recorded, _ = ConfigRecord(here.data).load()
    assert len(recorded.earlier) == EARLIER_MAX
    assert (here.data / RECORD).stat().st_size <= RECORD_BYTES_MAX


def test_an_older_version_is_taken_only_when_it_is_signed_as_going_back(here: Here) -> None:
    sign_config(here.fleet, config_document("1.1.0", {"gain": 11}))
    here.hear()
    here.look()
    sign_config(here.fleet, config_document("1.0.0", {"gain": 10}))
    here.hear()

    assert not here.look()
    assert here.values == {"gain": 11}
    assert here.config.notes() == ["config_refused:E-ROLLBACK"]
    withdraw_config(here.fleet, Place("config", config_document().metadata.level, CLASS))
    sign_config(here.fleet, config_document("1.0.0", {"gain": 10}), epoch=1)
    here.hear()
    assert here.look()
    assert here.values == {"gain": 10}


def test_a_config_that_is_listed_no_more_is_not_in_force_any_more(here: Here) -> None:
    entry = sign_config(here.fleet, config_document())
    here.hear()
    here.look()
    withdraw_config(here.fleet, entry.place)
    here.hear()

    assert here.look()
    assert here.values == {}


def test_a_document_whose_bytes_are_not_those_that_were_signed_does_not_count(here: Here) -> None:
    entry = sign_config(here.fleet, config_document(values={"gain": 1}))
    here.fleet.documents[entry.digest] = config_document(values={"gain": 9}).canonical_bytes()
    here.hear()

    assert not here.look()
    assert here.values == {}


def test_a_document_listed_for_somebody_else_is_refused(here: Here) -> None:
    document = config_document(level="site", target=SITE)
    entry = sign_config(here.fleet, config_document())
    forged = document.canonical_bytes()
    here.fleet.documents[entry.digest] = forged

    here.hear()
    assert not here.look()
    assert here.values == {}


def test_killed_at_any_step_the_device_has_the_old_config_or_the_new(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_config(here.fleet, config_document("1.0.0", {"gain": 1}))
    here.hear()
    here.look()
    steps: list[Callable[[], None]] = []
    version = 0
    for name in ("write_new_durably", "fsync_directory", "clear_the_way"):
        for kill_at in (1, 2):
            version += 1
            document = config_document(f"1.{version}.0", {"gain": version})
            sign_config(here.fleet, document)
            here.hear()
            before = here.values
            count = 0
            real = getattr(atomic_file, name)

            def killing(*args: Any, _real: Any = real, _at: int = kill_at, **more: Any) -> Any:
                nonlocal count
                count += 1
                if count == _at:
                    raise KeyboardInterrupt
                return _real(*args, **more)

            with monkeypatch.context() as patch:
                patch.setattr(atomic_file, name, killing)
                try:
                    here.look()
                except KeyboardInterrupt:
                    steps.append(killing)
            here.start()
            assert here.values in (before, {"gain": version})
            here.look()
            assert here.values == {"gain": version}
    assert len(steps) >= 4


def test_a_full_disk_keeps_the_old_config_until_there_is_room(
    here: Here, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sign_config(here.fleet, config_document("1.0.0", {"gain": 1}))
    here.hear()
    here.look()
    sign_config(here.fleet, config_document("1.1.0", {"gain": 2}))
    here.hear()

    def full(*_arguments: object, **_more: object) -> None:
        raise DiskFull("The disk is full.", next_step="free space.")

    with monkeypatch.context() as patch:
        patch.setattr(record, "replace_durably", full)
        assert not here.look()
        assert here.values == {"gain": 1}
        assert not here.look()
        assert here.config.notes() == ["config_refused:E-DISK-FULL"]
        assert caplog.text.count("could not be recorded") == 1
    assert here.look()
    assert here.values == {"gain": 2}


def test_a_file_that_cannot_be_written_costs_the_file_alone(here: Here) -> None:
    here.file.unlink()
    here.file.mkdir()
    sign_config(here.fleet, config_document(values={"gain": 3}))
    here.hear()

    assert here.look()
    assert here.values == {"gain": 3}
    assert not list(here.file.parent.glob(".*.new"))


def test_a_file_that_could_not_be_written_is_as_soon_as_it_can(here: Here) -> None:
    here.file.unlink()
    here.file.mkdir()
    sign_config(here.fleet, config_document(values={"gain": 3}))
    here.hear()
    here.look()
    before = open_descriptors()
    here.look()
    assert open_descriptors() <= before
    here.file.rmdir()

    assert not here.look()
    assert json.loads(here.file.read_bytes()) == {"gain": 3}


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_the_application_s_links_and_pipes_are_not_followed(here: Here, tmp_path: Path) -> None:
    """The file's directory may belong to a user who may less than the agent."""
    precious = tmp_path / "precious"
    precious.write_text("keep")
    here.file.with_name(".config.json.new").symlink_to(precious)
    here.file.unlink()
    os.mkfifo(here.file)
    sign_config(here.fleet, config_document(values={"gain": 3}))
    here.hear()

    assert here.look()
    assert precious.read_text() == "keep"
    assert not here.file.is_symlink()
    assert json.loads(here.file.read_bytes()) == {"gain": 3}


def test_the_file_is_never_seen_half_written(here: Here) -> None:
    sign_config(here.fleet, config_document(values={"gain": 3}))
    here.hear()
    here.look()
    inode = here.file.stat().st_ino
    assert oct(here.file.stat().st_mode & 0o777) == "0o644"
    sign_config(here.fleet, config_document("1.1.0", values={"gain": 4}))
    with here.file.open("rb") as reader:
        here.hear()
        here.look()
        assert json.loads(reader.read()) == {"gain": 3}
    assert here.file.stat().st_ino != inode


@pytest.mark.slow
def test_a_device_installs_the_release_that_a_waiting_config_is_for(
    play: Play, fleet: ModelFleet
) -> None:
    async def story(box: AgentBox) -> None:
        box.reconciler.config = config = ConfigInForce(box.directory, box.device, box.manifest)
        config.open()
        old = fleet.model_release("1.0.0", compatibility={"config": "<2"})
        sign_config(fleet, config_document("1.0.0", {"gain": 1}))
        await box.install(fleet.current(old), "1.0.0")
        assert json.loads(config.shown.content) == {"gain": 1}
        sign_config(fleet, config_document("2.0.0", {"gain": 2}))
        box.take(fleet.current(old))
        await box.step()
        assert config.notes() == ["config_waits"]
        new = fleet.model_release("2.0.0", factor=2.0, compatibility={"config": ">=2,<3"})
        await box.install(fleet.offered(new, old), "2.0.0")
        assert json.loads(config.shown.content) == {"gain": 2}
        other = fleet.model_release("3.0.0", compatibility={"config": ">=9"})
        box.take(fleet.offered(other, new))
        await box.until(lambda: "config" in box.reconciler.loops[MODEL].because)
        assert box.serving == "2.0.0"

    play(story)


def ask(url: str, **headers: str) -> tuple[int, Any, Any]:
    request = urllib.request.Request(  # noqa: S310
        f"{url}/v1/config", headers={name.replace("_", "-"): each for name, each in headers.items()}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read()


def test_the_front_answers_with_the_values_and_only_once(here: Here) -> None:
    sign_config(here.fleet, config_document(values={"gain": 3}))
    here.hear()
    here.look()
    runtime = Runtime(clock=lambda: datetime.now(UTC))
    with Gateway(runtime, config=lambda: here.config.shown) as gateway:
        status, headers, body = ask(gateway.url)
        again = ask(gateway.url, if_none_match=headers["etag"])
        sign_config(here.fleet, config_document("1.1.0", values={"gain": 4}))
        here.hear()
        here.look()
        after = ask(gateway.url, if_none_match=headers["etag"])
    with Gateway(runtime) as gateway:
        nowhere = ask(gateway.url)
    runtime.close()

    assert (status, json.loads(body), headers["mailboat-config"]) == (
        200,
        {"gain": 3},
        "defaults 1.0.0",
    )
    assert (again[0], again[2]) == (304, b"")
    assert (after[0], json.loads(after[2])) == (200, {"gain": 4})
    assert nowhere[0] == 404


def test_the_command_on_the_device_shows_values_and_documents(here: Here) -> None:
    sign_config(here.fleet, config_document(values={"gain": 3}))
    here.hear()
    here.look()

    found = config_in_force(SimpleNamespace(data_dir=here.data))  # type: ignore[arg-type]

    assert found["values"] == {"gain": 3}
    assert found["digest"] == here.config.shown.digest
    assert f"          class {CLASS}: defaults 1.0.0" in list(in_words(found))
    told = here.config.reported()
    assert told is not None
    assert next(describe_config(told.model_dump(mode="json"))).startswith(
        "config    defaults 1.0.0"
    )


def test_an_expired_config_role_brings_nothing_new_and_keeps_no_release_away(here: Here) -> None:
    sign_config(here.fleet, config_document(values={"gain": 1}))
    here.hear()
    here.look()
    here.fleet.now -= timedelta(days=400)
    sign_config(here.fleet, config_document("1.1.0", values={"gain": 2}))
    here.fleet.now += timedelta(days=400)
    digest = here.fleet.release("1.0.0")
    here.hear(Assignment(model=MODEL, current=ReleaseRef(version="1.0.0", digest=digest)))

    assert not here.look()
    assert here.values == {"gain": 1}
    assert here.manifest.standing(MODEL, "1.0.0").may_install(digest)


def test_a_bundle_that_leaves_the_config_role_out_is_refused_whole(here: Here) -> None:
    sign_config(here.fleet, config_document())
    del here.fleet.roles["config"]

    with pytest.raises(TrustRefused):
        here.hear()

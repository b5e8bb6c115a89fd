"""Orders for this device alone: kept, verified again, replaced by newer ones; and `explain`."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import pytest

from agent_box import device_facts
from mailboat_agent import status
from mailboat_agent.artifacts.release_store import ReleaseStore
from mailboat_agent.cli import EXIT_FAILURE, EXIT_OK, main
from mailboat_agent.config import to_toml
from mailboat_agent.device_orders import FILE_NAME, DeviceOrders, kept_order
from mailboat_agent.facts import ORDER_NOTES_MAX, Device
from mailboat_agent.link.acknowledgement import AckReader
from mailboat_agent.site_orders import SiteOrders
from mailboat_agent.trust.manifest import Counter, Manifest
from mailboat_agent.trust.trust_store import TrustStore
from mailboat_schemas.desired import Assignment, ReleaseRef
from mailboat_schemas.device_orders import DeviceDesired, Hold, Pin
from mailboat_schemas.errors import SignatureInvalid
from model_fleet import CLASS, DEVICE, FLEET, MODEL, Certificates
from signed_config import config_document, sign_config
from signed_policies import policy_document, sign_policy
from trust_fleet import TrustFleet

NOW = datetime.now(UTC)
LATER = int((NOW + timedelta(hours=1)).timestamp())
HOLD = Hold(by="operator:ana", reason="an exhibition", expires=LATER)


class Place:
    """A device's data directory that has accepted one manifest."""

    def __init__(self, directory: Path) -> None:
        self.fleet = TrustFleet(directory / "ceremony")
        self.digest = self.fleet.release("1.0.0")
        self.data = directory / "data"
        self.data.mkdir()
        self.start()
        current = ReleaseRef(version="1.0.0", digest=self.digest)
        bundle = self.fleet.bundle(Assignment(model=MODEL, current=current))
        self.manifest.take(bundle, [], Counter(0, ""))

    def start(self) -> None:
        self.device: Device = device_facts()
        trust = TrustStore(self.data, self.fleet.factory_root)
        self.manifest = Manifest(
            trust=trust, store=ReleaseStore(self.data), fleet=FLEET, hardware_class=CLASS
        )
        self.manifest.open([])
        reader = AckReader(device=DEVICE, manifest=self.manifest, ledger=None)  # type: ignore[arg-type]
        site = SiteOrders(self.data, self.device, self.manifest, None)  # type: ignore[arg-type]
        self.orders = DeviceOrders(self.data, self.device, reader, self.manifest, site)
        self.orders.open(NOW)

    def signed(
        self, counter: int, *holds: Hold, pins: tuple[Pin, ...] = (), issued: int = 0
    ) -> bytes:
        return self.fleet.online.sign_order(
            DeviceDesired(
                fleet=FLEET, device=DEVICE, counter=counter, issued=issued, holds=holds, pins=pins
            )
        )

    def takes(self, payload: bytes) -> bool:
        order = self.orders.reader.open_order(payload)
        assert order is not None
        return self.orders.take(order, payload)

    @property
    def notes(self) -> list[str]:
        return self.device.order_notes(NOW)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_an_order_outlives_a_restart_without_a_network(place: Place) -> None:
    assert place.takes(place.signed(1, HOLD))
    place.start()

    assert place.notes == ["held"]


def test_the_newest_counter_wins_also_after_a_restart(place: Place) -> None:
    place.takes(place.signed(2))
    place.start()

    assert not place.takes(place.signed(1, HOLD))
    assert place.notes == []


def test_a_newer_order_takes_back_what_it_does_not_name(place: Place) -> None:
    place.takes(place.signed(1, HOLD))
    place.takes(place.signed(2, HOLD.model_copy(update={"model": MODEL})))

    assert place.notes == [f"held:{MODEL}"]


def test_what_somebody_changed_on_the_disk_does_not_count(place: Place) -> None:
    place.takes(place.signed(1, HOLD))
    path = place.data / FILE_NAME
    path.write_bytes(path.read_bytes().replace(b"exhibition", b"exhibitioN"))
    place.start()

    assert place.notes == []


@pytest.mark.parametrize("content", [b"", b"\0" * 64, b"x" * (DeviceDesired.wire_bytes_max + 1)])
def test_a_file_that_is_no_order_keeps_nobody_from_starting(place: Place, content: bytes) -> None:
    (place.data / FILE_NAME).write_bytes(content)
    place.start()

    assert place.device.order is None


def test_an_order_of_somebody_else_s_director_is_refused(place: Place, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Place(tmp_path / "other")

    with pytest.raises(SignatureInvalid):
        place.takes(other.signed(9, HOLD))
    (place.data / FILE_NAME).write_bytes(other.signed(9, HOLD))
    assert kept_order(place.data, place.manifest, DEVICE) is None


def test_an_order_said_anew_is_kept_again_where_the_kept_bytes_do_not_count_any_more(
    place: Place, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other = Place(tmp_path / "other")
    place.takes(place.signed(1, HOLD))
    # As after a change of the director's key, or a disk that was full when it came.
    (place.data / FILE_NAME).write_bytes(other.signed(1, HOLD))

    assert not place.takes(place.signed(1, HOLD, issued=600))
    place.start()

    assert place.notes == ["held"]


def test_an_order_said_anew_is_not_written_again_while_the_kept_one_counts(place: Place) -> None:
    place.takes(place.signed(1, HOLD))
    before = (place.data / FILE_NAME).read_bytes()

    assert not place.takes(place.signed(1, HOLD, issued=600))

    assert (place.data / FILE_NAME).read_bytes() == before


def test_the_largest_order_outlives_a_restart_too(place: Place) -> None:
    """What is kept is the order in its signed envelope, which is larger than the order."""
    order = DeviceDesired(
        fleet=FLEET,
        device=DEVICE,
        counter=1,
        issued=0,
        holds=(HOLD,),
        documents={"a" * 64: Random(1).randbytes(DeviceDesired.wire_bytes_max - 400)},
    )
    payload = place.fleet.online.sign_order(order)

    assert place.takes(payload)
    place.start()

    assert place.device.order == order


def test_an_older_order_is_not_kept_in_the_place_of_one_that_was_lost(place: Place) -> None:
    place.takes(place.signed(2))
    (place.data / FILE_NAME).unlink()

    assert not place.takes(place.signed(1, HOLD))
    assert not (place.data / FILE_NAME).exists()


def test_an_order_that_has_ended_is_not_reported(place: Place) -> None:
    place.takes(place.signed(1, HOLD))

    assert place.device.order_notes(NOW + timedelta(hours=2)) == []


def test_orders_leave_room_for_other_notes(place: Place) -> None:
    place.takes(place.signed(1, *[HOLD] * (ORDER_NOTES_MAX + 1)))

    assert len(place.notes) == ORDER_NOTES_MAX


# --- explain -------------------------------------------------------------------------------------


@pytest.fixture
def config(place: Place, tmp_path: Path) -> Iterator[Path]:
    """Its ``agent.toml``; what an agent that runs has said of onnxruntime."""
    certificates = Certificates(tmp_path / "pki")
    certificate, key = certificates.device()
    key.chmod(0o600)
    (tmp_path / "root.json").write_bytes(place.fleet.factory_root)
    settings = {
        "fleet": FLEET,
        "device": DEVICE,
        "hardware_class": CLASS,
        "data_dir": "data",
        "api_url": "https://localhost:1",
        "mqtt_host": "127.0.0.1",
        "mqtt_port": 1,
        "ca": str(certificates.ca_path),
        "certificate": str(certificate),
        "key": str(key),
        "trust_root": "root.json",
        "memory_budget": "64MiB",
    }
    path = tmp_path / "agent.toml"
    path.write_text(to_toml(settings))
    files = status.StatusFiles(place.data)
    files.write_serving(url="http://127.0.0.1:1", host="127.0.0.1", port=1)
    report = device_report()
    files.write_status(report, connected=False, unconfirmed={}, trust_expires=None)
    yield path
    files.clear()


def device_report() -> status.ReportedState:
    facts = {"runtime_version": "1.20.0", "providers": ("CPUExecutionProvider",)}
    return status.ReportedState.model_validate(
        {
            "fleet": FLEET,
            "device": DEVICE,
            "hardware_class": CLASS,
            "site": "-",
            "session": 1,
            "observed_at": 0,
            "manifest_counter": 1,
            "facts": facts,
        }
    )


def test_explain_says_what_the_device_would_do(
    place: Place, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", "--config", str(config), "--json"]) == EXIT_OK
    found = json.loads(capsys.readouterr().out)

    (model,) = found["models"]
    (release,) = model["releases"]
    assert (release["role"], release["eligible"], model["next"]) == ("current", True, "Stage")


def test_explain_knows_the_policy_that_a_config_asks_for(
    place: Place, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sign_policy(place.fleet, policy_document({"days_between": 1}, version="1.2.0"))
    digest = place.fleet.release("1.1.0", compatibility={"config": ">=1"})
    sign_config(place.fleet, config_document("1.0.0", policy=">=1,<2"))
    ref = ReleaseRef(version="1.1.0", digest=digest)
    bundle = place.fleet.bundle(Assignment(model=MODEL, current=ref))
    assert place.manifest.take(bundle, [], place.manifest.counter() or Counter(0, "")) is not None

    assert main(["explain", "--config", str(config), "--json"]) == EXIT_OK
    (model,) = json.loads(capsys.readouterr().out)["models"]
    assert (model["next"], model["because"]) == ("Stage", "1.1.0 is current")


def test_explain_shows_a_hold_as_the_first_no(
    place: Place, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place.takes(place.signed(1, HOLD))
    assert main(["explain", "--config", str(config)]) == EXIT_OK
    said = capsys.readouterr().out

    assert "order     held" in said
    (first,) = [line for line in said.splitlines() if "NO <-" in line]
    assert "not_held" in first
    assert "by operator:ana: an exhibition" in first


def test_explain_of_a_model_that_is_none_of_the_device_s(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", "--config", str(config), "--model", "heat"]) == EXIT_FAILURE
    assert f"its models: {MODEL}" in capsys.readouterr().err


def test_explain_changes_nothing(place: Place, config: Path) -> None:
    def content() -> dict[str, bytes]:
        files = (path for path in place.data.rglob("*") if path.is_file())
        return {str(path): path.read_bytes() for path in files}

    before = content()
    main(["explain", "--config", str(config)])

    assert content() == before

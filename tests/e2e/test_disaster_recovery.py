"""An old backup restored under a live fleet of real agents: nobody refuses, nobody goes back."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from mailboat_controller.demo.models import MODEL_NAME
from real_fleet import RealFleet, running_fleet

pytestmark = pytest.mark.slow

# What a device tells when it refuses what it hears, or leaves what it runs.
BAD = {
    "manifest_refused",
    "nothing_to_serve",
    "release_refused",
    "returned",
    "rolled_back",
    "security",
    "trial_failed",
    "trust_stale",
}


@pytest.mark.parametrize("broker", ["kept", "lost"])
def test_an_old_backup_under_a_live_fleet(tmp_path: Path, broker: str) -> None:
    with running_fleet(tmp_path / "fleet", devices_per_class=1) as fleet:
        passphrase = tmp_path / "passphrase"
        passphrase.touch(mode=0o600)
        passphrase.write_text("a long passphrase\n")
        publish(fleet, "first", "1.0.0")
        config = ("--config", str(fleet.fleet.data / "controller.toml"))
        backup = tmp_path / "nightly.backup"
        with_it = ("--passphrase-file", str(passphrase))
        fleet.fleet.command("backup", "--out", str(backup), *with_it, *config)
        publish(fleet, "second", "1.1.0")
        before = {name: counter(fleet, name) for name in fleet.devices}
        told = {name: fleet.events_told_by(device) for name, device in fleet.devices.items()}

        lose_the_controller(fleet, keep_broker=broker == "kept")
        data = ("--data-dir", str(fleet.fleet.data))
        fleet.fleet.command("restore", str(backup), *with_it, *data, "--reason", "the disk died")
        bring_back_what_is_elsewhere(fleet, keep_broker=broker == "kept")
        fleet.fleet.start_controller()

        learned = entry(fleet, "recovery.finish")
        assert entry(fleet, "database.restore")["reason"] == "the disk died"
        if broker == "kept":
            assert learned["details"]["releases"]
            assert fleet.fleet.get(f"/v1/rollouts/{MODEL_NAME}-second")["phase"] == "completed"
            for name in fleet.devices:
                assert learned["details"]["manifests"][class_of(fleet, name)][1] > before[name]
        else:
            # The roles that people signed since are lost: devices are told nothing until then.
            roles = {f"release-{MODEL_NAME}", f"approval-{MODEL_NAME}"}
            assert learned["details"]["behind"].keys() == roles
            # The signers hand in what is lost, on new ground; 1.2.0 then goes beyond it.
            fleet.publish("second", "1.1.0")
        publish(fleet, "third", "1.2.0")

        for name, device in fleet.devices.items():
            assert counter(fleet, name) > before[name]
            bad = [each for each in fleet.fleet.events(name) if each["kind"] in BAD]
            assert bad == []
            stored = [each["sequence"] for each in fleet.fleet.events(name)]
            assert len(stored) == len(set(stored))
            lost = lost_rows(fleet, name)
            assert set(stored) | lost == set(range(1, fleet.events_told_by(device) + 1))
            assert all(number <= told[name] for number in lost)
        assert fleet.fleet.command("audit", "verify", *as_operator(fleet))["holds"]


def publish(fleet: RealFleet, name: str, version: str) -> None:
    fleet.publish(name, version)
    fleet.wait_for(version)
    fleet.wait_until_completed(f"{MODEL_NAME}-{name}")
    fleet.wait_for_confirmation()


def as_operator(fleet: RealFleet) -> tuple[str, str]:
    return ("--connection", str(fleet.fleet.operator))


def class_of(fleet: RealFleet, device: str) -> str:
    return fleet.devices[device].hardware_class


def counter(fleet: RealFleet, device: str) -> int:
    """Of the newest manifest that the device itself says it has taken."""
    found: int = fleet.devices[device].read("status.json")["report"]["manifest_counter"]
    return found


def old(fleet: RealFleet) -> Path:
    return fleet.fleet.data.with_name("controller-old")


def lose_the_controller(fleet: RealFleet, *, keep_broker: bool) -> None:
    fleet.fleet.controller.stop()
    fleet.fleet.data.rename(old(fleet))
    if not keep_broker:
        shutil.rmtree(old(fleet) / "broker")


def bring_back_what_is_elsewhere(fleet: RealFleet, *, keep_broker: bool) -> None:
    """The operator's own token, artifacts that no backup holds, and the broker if it lives."""
    for place in ("connections", "artifacts", *(["broker"] if keep_broker else [])):
        shutil.copytree(old(fleet) / place, fleet.fleet.data / place, dirs_exist_ok=True)
    settings = fleet.fleet.data / "controller.toml"
    settings.write_text(f"recovery_listen_seconds = 15\n{settings.read_text()}")


def entry(fleet: RealFleet, action: str) -> dict[str, Any]:
    rows = fleet.fleet.get("/v1/audit", action=action)
    assert len(rows) == 1
    found: dict[str, Any] = rows[0]
    return found


def lost_rows(fleet: RealFleet, device: str) -> set[int]:
    """Events that the device had deleted and the backup does not have: told, not passed over."""
    rows = fleet.fleet.get("/v1/audit", action="device.rows_lost", subject=device)
    return {
        number
        for row in rows
        if row["details"]["stream"] == "events"
        for number in range(row["details"]["from"], row["details"]["to"] + 1)
    }

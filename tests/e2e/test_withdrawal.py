"""An approver withdraws a release at a terminal; every device of a real fleet stops using it."""

from pathlib import Path

import pytest

from mailboat_controller.demo.fleet import until
from mailboat_controller.demo.models import MODEL_NAME
from real_fleet import CONVERGE_SECONDS_MAX, running_fleet

pytestmark = pytest.mark.slow


def test_a_withdrawal_at_a_terminal_takes_every_device_back(tmp_path: Path) -> None:
    with running_fleet(tmp_path / "fleet", devices_per_class=1) as real:
        fleet = real.fleet
        people = tmp_path / "paul"
        fleet.command(
            *("token", "issue", "paul", "--role", "approver", "--out", str(people)),
            *("--config", str(fleet.data / "controller.toml")),
        )
        connection = ("--connection", str(people / "connection.toml"))
        key = ("--key", str(fleet.trust / "approver" / f"{MODEL_NAME}.pem"))
        for name, version in (("a", "1.0.0"), ("b", "1.1.0")):
            real.publish(name, version)
            real.wait_for(version)
            real.wait_until_completed(f"{MODEL_NAME}-{name}")

        said = fleet.command(
            *("release", "withdraw", MODEL_NAME, "1.1.0", "--reason", "it mishears", "--yes"),
            *key,
            *connection,
        )

        assert said["status"] == "accepted"
        real.wait_for("1.0.0")
        for device in real.devices:
            until(
                f"{device} has told of it",
                lambda device=device: any(
                    event["kind"] == "returned" and event["content"]["code"] == "withdrawn"
                    for event in fleet.events(device)
                ),
                CONVERGE_SECONDS_MAX,
            )
        standing = fleet.command("release", "show", MODEL_NAME, "1.1.0", *connection)
        assert (standing["standing"], standing["reason"]) == ("withdrawn", "it mishears")
        assert standing["by"] == "approver:paul"

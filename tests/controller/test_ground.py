"""A controller that cannot serve says so in one sentence, with a next step, and leaves nothing."""

import asyncio
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import structlog

from enrolled_fleet import FLEET
from mailboat_controller import data_directory
from mailboat_controller.broker import embedded as broker
from mailboat_controller.config import load
from mailboat_controller.ground import Ground, open_ground
from mailboat_controller.service import serve
from mailboat_schemas.errors import MailboatError, OperatorNeeded
from trust_fleet import TrustFleet

MAIN = "from mailboat_controller.cli import main; main()"
Damage = Callable[[Path], object]


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory as `mailboat init` makes it; tests damage copies of it."""
    directory, now = tmp_path_factory.mktemp("made"), datetime.now(UTC)
    trust = TrustFleet(directory / "ceremony", now=now).directory
    data_directory.create(directory / "data", fleet=FLEET, trust=trust, now=now)
    return directory / "data"


@pytest.fixture
def data(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "data"))


def setting(name: str, value: object) -> Damage:
    def change(data: Path) -> None:
        path = data / "controller.toml"
        lines = [line for line in path.read_text().splitlines() if not line.startswith(f"{name} ")]
        path.write_text("\n".join([*lines, f"{name} = {value}"]) + "\n")

    return change


def open_(data: Path) -> Ground:
    return open_ground(load(data / "controller.toml"), datetime.now(UTC))


def foreign_trust(data: Path) -> None:
    other = TrustFleet(data.parent / "other", now=datetime.now(UTC)).directory
    shutil.rmtree(data / "trust")
    shutil.copytree(other / "controller" / "trust", data / "trust")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda data: shutil.rmtree(data / "trust"), "holds no trust metadata"),
        (lambda data: (data / "trust" / "targets.json").write_text("{"), "is not trust metadata"),
        (foreign_trust, "is not the one that the trust metadata names"),
        (lambda data: shutil.rmtree(data / "keys"), "cannot be read"),
        (lambda data: (data / "keys" / "director.pem").write_text("x"), "is not a private key"),
        (lambda data: (data / "pki" / "ca.key").unlink(), "certificate authority"),
        (lambda data: (data / "mailboat.db").write_bytes(b"x" * 9000), "not a database"),
        (lambda data: (data / "artifacts").write_text(""), "cannot be used"),
        (lambda data: (data / "broker").write_text(""), "cannot be used"),
        (setting("data_dir", '"controller.toml"'), "cannot be used"),
        (setting("database_url", '"mysql://x"'), "not supported"),
        (setting("mqtt_host", '"no.such.host.invalid"'), "cannot listen on no.such.host.invalid"),
    ],
)
def test_what_cannot_be_served_is_told_in_one_sentence(
    data: Path, damage: Damage, told: str
) -> None:
    setting("mqtt_port", 0)(data)
    damage(data)

    with pytest.raises(MailboatError, match=told) as raised:
        open_(data)
    assert isinstance(raised.value, OperatorNeeded)
    assert raised.value.next_step


def test_partitions_on_a_file_that_has_one_writer_are_refused(data: Path) -> None:
    with (data / "controller.toml").open("a") as settings:
        settings.write("\n[ingest]\npartitions = 2\n")

    with pytest.raises(OperatorNeeded, match="the database is SQLite"):
        open_ground(load(data / "controller.toml"), datetime.now(UTC))


def test_a_port_that_somebody_has_is_told_and_no_broker_is_left(data: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        setting("mqtt_port", taken.getsockname()[1])(data)

        with pytest.raises(broker.BrokerDied, match="in use"):
            open_(data)
    assert not (data / "broker" / "mosquitto.pid").exists()


def test_without_mosquitto_the_package_is_named(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", os.devnull)
    monkeypatch.setattr(broker, "SEARCHED_BESIDE_PATH", ())
    setting("mqtt_port", 0)(data)

    with pytest.raises(OperatorNeeded, match="There is no mosquitto") as raised:
        open_(data)
    assert "apt install mosquitto" in raised.value.next_step


def test_an_api_port_that_somebody_has_leaves_no_broker_either(data: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        setting("listen_port", taken.getsockname()[1])(data)  # found out when the broker runs
        setting("mqtt_port", 0)(data)

        with pytest.raises(OperatorNeeded, match="The API cannot listen on"):
            asyncio.run(serve(load(data / "controller.toml")))
    assert (data / "broker" / "mosquitto.log").exists()
    assert not (data / "broker" / "mosquitto.pid").exists()


@pytest.mark.slow
def test_the_command_prints_the_error_and_no_traceback_and_leaves_no_broker(data: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        setting("listen_port", taken.getsockname()[1])(data)  # found out when the broker runs
        setting("mqtt_port", 0)(data)
        done = subprocess.run(
            [sys.executable, "-c", MAIN, "serve", "--config", str(data / "controller.toml")],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    assert done.returncode == 1
    assert "error E-CONFIG: The API cannot listen on" in done.stderr
    assert "next step: " in done.stderr
    assert "Traceback" not in done.stderr
    assert not (data / "broker" / "mosquitto.pid").exists()

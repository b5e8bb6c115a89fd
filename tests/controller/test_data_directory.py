import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from enrolled_fleet import lay_database
from mailboat_controller import data_directory
from mailboat_controller.config import ControllerSettings
from mailboat_controller.connection_file import load_connection, save_connection
from mailboat_controller.store import audit, devices
from mailboat_controller.store.engine import Store
from mailboat_schemas.enrolment import Connection, Kind
from mailboat_schemas.errors import ConfigurationInvalid, Conflict, NotFound
from trust_fleet import FLEET, TrustFleet

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


def create(tmp_path: Path, trust: Path | None = None) -> ControllerSettings:
    """In a directory that has a database; `test_holds_the_online_keys…` begins with nothing."""
    lay_database(tmp_path / "data")
    return data_directory.create(tmp_path / "data", fleet=FLEET, trust=trust, now=NOON)


def issue(settings: ControllerSettings, kind: Kind, name: str, out: Path) -> Path:
    return data_directory.issue_credential(settings, kind, name, out, actor="local:root", now=NOON)


def test_holds_the_online_keys_and_nothing_that_could_release_or_approve(tmp_path: Path) -> None:
    ceremony = TrustFleet(tmp_path / "ceremony", now=NOON).directory
    settings = data_directory.create(tmp_path / "data", fleet=FLEET, trust=ceremony, now=NOON)

    keys = {path.name for path in settings.data_dir.rglob("*") if path.suffix in {".pem", ".key"}}
    assert keys == {"snapshot.pem", "timestamp.pem", "director.pem", "ca.pem", "ca.key"}
    assert (settings.trust_dir / "1.root.json").is_file()
    modes = {stat.S_IMODE(path.stat().st_mode) for path in settings.keys_dir.iterdir()}
    assert modes == {0o600}
    assert stat.S_IMODE(settings.data_dir.stat().st_mode) == 0o700
    assert issue(settings, Kind.CI, "build", tmp_path / "ci").is_file()  # its database is whole


def test_is_never_made_twice(tmp_path: Path) -> None:
    create(tmp_path)

    with pytest.raises(ConfigurationInvalid, match="already"):
        create(tmp_path)


def test_takes_a_ceremony_that_was_held_later_once(tmp_path: Path) -> None:
    settings = create(tmp_path)
    ceremony = TrustFleet(tmp_path / "ceremony", now=NOON).directory
    data_directory.import_trust(settings, ceremony / "controller")

    assert (settings.keys_dir / "director.pem").is_file()
    with pytest.raises(Conflict):
        data_directory.import_trust(settings, ceremony)


def test_refuses_a_folder_that_is_no_ceremony_and_stays_unmade(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()

    with pytest.raises(ConfigurationInvalid, match=r"snapshot\.pem"):
        create(tmp_path, tmp_path / "empty")
    assert not (tmp_path / "data" / "controller.toml").exists()


def test_a_fleet_whose_name_cannot_stand_in_a_topic_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationInvalid, match="fleet"):
        data_directory.create(tmp_path / "data", fleet="a/b", trust=None, now=NOON)


class TestCredentials:
    def test_come_with_a_connection_file_and_an_audit_entry(self, tmp_path: Path) -> None:
        settings = create(tmp_path)
        path = issue(settings, Kind.CI, "build", tmp_path / "ci")

        connection = load_connection(path)
        assert (connection.name, connection.api_url) == ("build", "https://127.0.0.1:8443")
        assert stat.S_IMODE((tmp_path / "ci" / "build.key").stat().st_mode) == 0o600
        store = Store(settings.store_url)
        with store.read() as tx:
            (entry,) = audit.page(tx)
        assert (entry.action, entry.subject) == ("credential.issue", "ci:build")
        store.close()

    def test_do_not_share_a_name_with_a_device_or_another_kind(self, tmp_path: Path) -> None:
        settings = create(tmp_path)
        store = Store(settings.store_url)
        with store.transaction() as tx:
            devices.enrol(
                tx,
                device="dev-1",
                hardware_class="kiosk",
                site="-",
                labels={},
                public_key=b"k",
                at=NOON,
            )
        store.close()
        issue(settings, Kind.CI, "build", tmp_path / "ci")

        with pytest.raises(Conflict, match="device"):
            issue(settings, Kind.CI, "dev-1", tmp_path / "x")
        with pytest.raises(Conflict, match="ci"):
            issue(settings, Kind.DASHBOARD, "build", tmp_path / "x")
        issue(settings, Kind.CI, "build", tmp_path / "again")
        assert not (tmp_path / "x").exists()

    @pytest.mark.parametrize("kind", [Kind.DEVICE, Kind.CONTROLLER, Kind.SERVER])
    def test_of_machines_are_not_issued_by_hand(self, tmp_path: Path, kind: Kind) -> None:
        with pytest.raises(ConfigurationInvalid, match="by hand"):
            issue(create(tmp_path), kind, "x", tmp_path / "x")

    def test_can_be_revoked_once(self, tmp_path: Path) -> None:
        settings = create(tmp_path)
        issue(settings, Kind.CI, "build", tmp_path / "ci")
        words = {"reason": "left", "actor": "local:root", "now": NOON}

        assert data_directory.revoke_credential(settings, Kind.CI, "build", **words) == 1
        with pytest.raises(NotFound):
            data_directory.revoke_credential(settings, Kind.CI, "build", **words)


class TestAddresses:
    def test_are_the_public_ones_where_they_are_set(self, tmp_path: Path) -> None:
        settings = create(tmp_path).model_copy(
            update={
                "public_api_url": "https://c.example",
                "public_mqtt_host": "c.example",
                "public_mqtt_port": 1234,
            }
        )

        assert data_directory.addresses_of(settings) == data_directory.Addresses(
            api_url="https://c.example", mqtt_host="c.example", mqtt_port=1234
        )

    def test_on_any_free_port_are_known_only_while_a_controller_runs(self, tmp_path: Path) -> None:
        settings = create(tmp_path).model_copy(update={"listen_port": 0, "mqtt_port": 0})

        with pytest.raises(ConfigurationInvalid, match="free port"):
            data_directory.addresses_of(settings)
        settings.serving_file.write_text(
            '{"api_url": "https://127.0.0.1:5", "mqtt_host": "x", "mqtt_port": 6, "pid": 7}'
        )
        found = data_directory.addresses_of(settings)
        assert (found.api_url, found.mqtt_port) == ("https://127.0.0.1:5", 6)


def test_a_connection_file_reads_as_it_was_written(tmp_path: Path) -> None:
    connection = Connection(
        fleet="demo",
        name="alice",
        api_url="https://c.example:8443",
        mqtt_host="c.example",
        mqtt_port=8883,
        ca="ca.pem",
        certificate='odd "name" \\ ü.pem',
        key="alice.key",
    )
    save_connection(tmp_path / "connection.toml", connection)

    assert load_connection(tmp_path / "connection.toml") == connection


@pytest.mark.parametrize(
    ("named", "problem"),
    [
        ({}, "a token, or a certificate"),
        ({"certificate": "a.pem"}, "go together"),
        ({"token": "token", "key": "a.key"}, "go together"),
    ],
)
def test_a_connection_says_as_whom(tmp_path: Path, named: dict[str, str], problem: str) -> None:
    about = {"fleet": "demo", "name": "a", "api_url": "https://c", "mqtt_host": "c", "ca": "ca.pem"}
    path = tmp_path / "connection.toml"
    lines = [f'{key} = "{value}"' for key, value in (about | named).items()]
    path.write_text("\n".join([*lines, "mqtt_port = 8883"]))

    with pytest.raises(ConfigurationInvalid, match=problem):
        load_connection(path)


@pytest.mark.parametrize("text", ["", "not toml", 'fleet = "demo"\n'])
def test_a_connection_file_that_is_none_says_what_to_do(tmp_path: Path, text: str) -> None:
    path = tmp_path / "connection.toml"
    path.write_text(text)

    with pytest.raises(ConfigurationInvalid, match="MAILBOAT_CONNECTION"):
        load_connection(path)

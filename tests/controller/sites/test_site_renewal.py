"""A site renews its own certificates: `refresh` of a real kit, against a real controller's API,
with real mosquittos on both sides of the bridge."""

import os
import ssl
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from broker_site import Peer
from mailboat_controller.broker import access_files
from mailboat_controller.broker.embedded import MosquittoBroker, find_mosquitto
from mailboat_controller.demo.fleet import until
from mailboat_controller.pki.issuing import CREDENTIAL_DAYS, Authority, TlsFiles
from mailboat_controller.sites.kit import KitWishes, make_kit
from mailboat_controller.store import audit, broker_access
from mailboat_schemas.enrolment import Kind
from running_api import RunningApi, running_api
from unused_port import unused_port

NAME = "harbour"
LIFETIME = timedelta(seconds=25)  # what is left of the kit's certificates when it is made
PATIENCE_SECONDS = 120
HELLO = f"mb/1/demo/site/{NAME}/dev/crane-1/up/hello"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@dataclass
class End:
    """One of the two brokers, as `Peer` wants to have it."""

    broker: MosquittoBroker
    authority: Authority
    identities: dict[str, tuple[Path, Path]]

    def files(self, kind: Kind, name: str) -> TlsFiles:
        if kind is Kind.CONTROLLER:
            return self.authority.controller_files(now=datetime.now(UTC))
        certificate, key = self.identities[name]
        return TlsFiles(ca=self.authority.ca_path, certificate=certificate, key=key)


@dataclass
class KitAtSite:
    """A kit, unpacked, and the broker that runs on it."""

    directory: Path
    data: Path
    port: int
    process: "subprocess.Popen[bytes] | None" = None
    host: str = "localhost"

    def start(self) -> None:
        command = [str(find_mosquitto()), "-c", str(self.directory / "mosquitto.conf")]
        with (self.data / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log)
        until("the site's broker runs", (self.data / "mosquitto.pid").exists, PATIENCE_SECONDS)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait()

    def refresh(self) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [str(self.directory / "refresh")],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def certificate(self, part: str) -> x509.Certificate:
        return x509.load_pem_x509_certificate((self.directory / f"{part}.pem").read_bytes())

    def shown_serial(self, ca: Path) -> int:
        """Of the certificate that its broker shows to devices."""
        pem = ssl.get_server_certificate((self.host, self.port), ca_certs=str(ca))
        return x509.load_pem_x509_certificate(pem.encode()).serial_number


@pytest.fixture
def api(tmp_path: Path) -> Iterator[RunningApi]:
    with running_api(tmp_path / "controller") as api:
        yield api


@pytest.fixture
def centre(api: RunningApi, tmp_path: Path) -> Iterator[End]:
    now, directory = datetime.now(UTC), api.settings.broker_dir
    files = api.authority.server_files(("localhost", "127.0.0.1"), now=now)
    broker = MosquittoBroker(directory, fleet="demo", files=files, port=0)
    write_access(api)
    broker.start()
    yield End(broker, api.authority, api.identities)
    broker.stop()


@pytest.fixture
def site(api: RunningApi, centre: End, tmp_path: Path) -> Iterator[KitAtSite]:
    port = unused_port()
    order = {"name": NAME, "broker_host": "localhost", "broker_port": port}
    assert api.ask("POST", "/v1/sites", by="alice", body=order).status == 201
    assert api.enrol("crane-1", token=api.kit(site=NAME)["token"]).status == 201
    kit, data, packed = tmp_path / "kit", tmp_path / "kit-data", tmp_path / "site.tar"
    wishes = KitWishes(
        install_dir=str(kit), data_dir=str(data), listen="127.0.0.1", run_as="root", devices=1
    )
    make_kit(
        api.settings.model_copy(update={"listen_port": api.port, "mqtt_port": centre.broker.port}),
        NAME,
        packed,
        wishes,
        actor="local:test",
        now=datetime.now(UTC) - timedelta(days=CREDENTIAL_DAYS) + LIFETIME,
    )
    write_access(api)
    centre.broker.reload()
    with tarfile.open(packed) as archive:
        archive.extractall(tmp_path, filter="data")
    (tmp_path / f"site-{NAME}").rename(kit)
    data.mkdir()
    site = KitAtSite(kit, data, port)
    site.start()
    yield site
    site.stop()


def write_access(api: RunningApi) -> None:
    with api.store.read() as tx:
        access = broker_access.read(tx, api.now())
    access_files.write(
        api.settings.broker_dir, access, fleet="demo", authority=api.authority, now=api.now()
    )


def hears_from_the_site(centre: End, site: KitAtSite) -> bool:
    """Whether what a device says at the site's broker comes out at the centre's."""
    controller = Peer(centre, Kind.CONTROLLER, "controller")
    device = Peer(End(site, centre.authority, centre.identities), Kind.DEVICE, "crane-1")  # type: ignore[arg-type]
    try:
        controller.subscribe(HELLO)
        device.publish(HELLO)
        return controller.hears(HELLO)
    finally:
        device.close()
        controller.close()


def test_a_bridge_has_a_new_certificate_before_the_old_one_ends_and_nobody_came(
    api: RunningApi, centre: End, site: KitAtSite
) -> None:
    until("the bridge is up", lambda: hears_from_the_site(centre, site), PATIENCE_SECONDS)
    old = {part: site.certificate(part) for part in ("bridge", "server")}
    old_keys = {part: (site.directory / f"{part}.key").read_bytes() for part in old}

    done = site.refresh()
    again = site.refresh()

    assert (done.returncode, done.stderr) == (0, "")
    assert "bridge.pem is new" in done.stdout
    assert (again.returncode, again.stdout) == (0, "")
    new = {part: site.certificate(part) for part in old}
    for part, before in old.items():
        key = site.directory / f"{part}.key"
        assert new[part].not_valid_after_utc > before.not_valid_after_utc
        assert new[part].subject == before.subject
        assert key.read_bytes() != old_keys[part]
        assert key.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in site.directory.glob("*.new")] == []
    shown = api.ask("GET", f"/v1/sites/{NAME}", by="vera").json
    ends = datetime.fromisoformat(shown["certificate_expires_at"])
    assert ends == new["bridge"].not_valid_after_utc
    until(
        "the broker shows the new one",
        lambda: site.shown_serial(api.authority.ca_path) == new["server"].serial_number,
        PATIENCE_SECONDS,
    )

    end = old["bridge"].not_valid_after_utc
    until("the old one has ended", lambda: datetime.now(UTC) > end, PATIENCE_SECONDS)
    centre.broker.stop()
    centre.broker.start()
    until("the bridge is back", lambda: hears_from_the_site(centre, site), PATIENCE_SECONDS)
    with api.store.read() as tx:
        entries = audit.page(tx, subject=f"site:{NAME}")
    renewed = [row.details["part"] for row in entries if row.action == "site.renew"]
    assert renewed == ["server", "bridge"]


def test_a_renewal_that_was_cut_off_is_completed_by_the_next_run(site: KitAtSite) -> None:
    assert site.refresh().returncode == 0
    kit = site.directory
    pair = {name: (kit / name).read_bytes() for name in ("bridge.pem", "bridge.key")}
    site.stop()  # power fails after the key was put in place, before the certificate
    (kit / "bridge.pem.new").write_bytes(pair["bridge.pem"])
    (kit / "bridge.pem").write_bytes((kit / "server.pem").read_bytes())
    (kit / "bridge.renewed").touch()
    site.start()

    done = site.refresh()

    assert (done.returncode, done.stderr) == (0, "")
    assert {name: (kit / name).read_bytes() for name in pair} == pair
    assert not (kit / "bridge.renewed").exists()
    assert not (kit / "reload.due").exists()


def test_a_certificate_that_has_ended_is_told_with_what_to_do(site: KitAtSite) -> None:
    end = site.certificate("bridge").not_valid_after_utc
    until("it has ended", lambda: datetime.now(UTC) > end, PATIENCE_SECONDS)

    done = site.refresh()

    assert done.returncode == 1
    assert "ask the centre for a new kit" in done.stderr


def test_a_number_that_a_killed_broker_left_behind_ends_nobody_else(site: KitAtSite) -> None:
    """`refresh` runs as root: the number may be anybody's by now."""
    site.stop()
    (site.directory / "reload.due").touch()
    with subprocess.Popen(["sleep", "600"]) as bystander:
        (site.data / "mosquitto.pid").write_text(f"{bystander.pid}\n")
        done = site.refresh()
        ended = bystander.poll()
        os.kill(bystander.pid, 9)

    assert ended is None
    assert (done.returncode, (site.directory / "reload.due").exists()) == (1, True)
    assert "does not run" in done.stderr

"""The doctor on real broken things: files, certificates, clocks, disks and servers."""

import json
import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from mailboat_agent import ballast
from mailboat_agent.cli import EXIT_FAILURE, EXIT_OK, main
from mailboat_agent.config import AgentConfig, to_toml
from mailboat_agent.doctor import host_checks, network_checks
from mailboat_agent.doctor.disk_checks import (
    check_ballast,
    check_data_directory,
    check_disk,
    check_records,
)
from mailboat_agent.doctor.examine import examine, worst
from mailboat_agent.doctor.host_checks import check_memory, check_service, check_workers
from mailboat_agent.doctor.identity_checks import (
    check_certificate,
    check_clock,
    check_key,
    check_trust,
)
from mailboat_agent.doctor.network_checks import check_network
from mailboat_agent.trust.trust_store import TrustStore
from mailboat_schemas.finding import Finding, Findings, Level
from mailboat_schemas.trust import expires_at
from model_fleet import CLASS, DEVICE, FLEET, Certificates, ModelFleet

NOW = datetime.now(UTC)


class Server:
    """TLS on loopback that asks for a client's certificate; the handshake is all it does."""

    def __init__(self, certificates: Certificates, *, trusts: Path | None = None) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(*certificates.server())
        self._context.load_verify_locations(trusts or certificates.ca_path)
        self._context.verify_mode = ssl.CERT_REQUIRED
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                sock, _ = self._listening.accept()
            except OSError:
                return
            try:
                with self._context.wrap_socket(sock, server_side=True) as tls:
                    tls.settimeout(5)
                    tls.recv(1)
            except OSError:
                sock.close()

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(60)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def server(certificates: Certificates) -> Iterator[Server]:
    server = Server(certificates)
    yield server
    server.close()


@pytest.fixture
def path(
    tmp_path: Path, certificates: Certificates, server: Server, first_fleet: ModelFleet
) -> Path:
    return enrolled(tmp_path, certificates, server, first_fleet)


def enrolled(place: Path, certificates: Certificates, server: Server, fleet: ModelFleet) -> Path:
    """A device in good health."""
    certificate, key = certificates.device()
    identity = place / "identity"
    identity.mkdir()
    for name, content in (
        ("ca.pem", certificates.ca),
        ("device.pem", certificate.read_bytes()),
        ("device.key", key.read_bytes()),
        ("root.json", fleet.factory_root),
    ):
        (identity / name).write_bytes(content)
    (identity / "device.key").chmod(0o600)
    (place / "data").mkdir(mode=0o700)
    ballast.restore_ballast(place / "data")
    write(place / "agent.toml", server.port)
    return place / "agent.toml"


def write(path: Path, port: int, **changes: object) -> AgentConfig:
    settings = {
        "fleet": FLEET,
        "device": DEVICE,
        "hardware_class": CLASS,
        "data_dir": "data",
        "api_url": f"https://localhost:{port}",
        "mqtt_host": "127.0.0.1",
        "mqtt_port": port,
        "ca": "identity/ca.pem",
        "certificate": "identity/device.pem",
        "key": "identity/device.key",
        "trust_root": "identity/root.json",
        "memory_budget": "64MiB",
    }
    path.write_text(to_toml(settings | changes))
    return AgentConfig.read(path)


def one(findings: Findings, check: str) -> Finding:
    return next(finding for finding in findings if finding.check == check)


def certify(path: Path, certificates: Certificates, begins: timedelta, ends: timedelta) -> None:
    """Give the device another certificate for the key it has."""
    identity = path.parent / "identity"
    key = serialization.load_pem_private_key((identity / "device.key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    names = [(NameOID.COMMON_NAME, DEVICE), (NameOID.SERIAL_NUMBER, "7")]
    subject = x509.Name([x509.NameAttribute(oid, text) for oid, text in names])
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(subject)
    builder = builder.public_key(key.public_key()).serial_number(7)
    builder = builder.not_valid_before(NOW + begins).not_valid_after(NOW + ends)
    certificate = builder.sign(key, hashes.SHA256())
    (identity / "device.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


# --- the whole -----------------------------------------------------------------------------------


def test_a_device_in_good_health_fails_nothing(
    disk_path: Path,
    certificates: Certificates,
    server: Server,
    first_fleet: ModelFleet,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = enrolled(disk_path, certificates, server, first_fleet)
    assert main(["doctor", "--config", str(path), "--json"]) == EXIT_OK
    said = json.loads(capsys.readouterr().out)
    levels = {finding["check"]: finding["level"] for finding in said["findings"]}
    expected = "config key certificate data_dir disk ballast state journal api broker runtime"

    assert {levels[check] for check in expected.split()} == {"ok"}
    assert levels["confinement.system_calls"] == "ok"
    assert "fail" not in levels.values()


def test_the_checks_come_in_the_documented_order(path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "hardening.md").read_text()
    section = page.split("## What doctor looks at", 1)[1]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    documented = [word for row in rows for word in row.replace("`", "").replace(",", "").split()]

    found = []
    for finding in examine(path, NOW):
        word = "confinement.<layer>" if "confinement" in finding.check else finding.check
        if word not in found:
            found.append(word)

    assert found == [word for word in documented if word != "tls"]


def test_a_failure_is_an_exit_status_with_a_fix_and_no_secret(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (path.parent / "identity/device.key").chmod(0o644)

    assert main(["doctor", "--config", str(path)]) == EXIT_FAILURE
    said = capsys.readouterr().out

    assert "others can read the device's key" in said
    assert "chmod 600" in said
    assert "PRIVATE KEY" not in said


def test_without_a_configuration_there_is_one_failure_and_its_fix(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--config", str(tmp_path / "none.toml"), "--json"]) == EXIT_FAILURE
    said = json.loads(capsys.readouterr().out)

    assert [(f["check"], f["level"]) for f in said["findings"]] == [
        ("config", "fail"),
        ("rest", "skip"),
    ]
    assert "mailboat-agent enroll" in said["findings"][0]["fix"]


def test_a_check_that_breaks_is_a_finding_and_the_rest_goes_on(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> Findings:
        raise RuntimeError("a sick host")

    monkeypatch.setattr("mailboat_agent.doctor.examine.check_disk", broken)
    findings = list(examine(path, NOW))

    assert one(iter(findings), "disk").level is Level.FAIL
    assert "a sick host" in one(iter(findings), "disk").what
    assert one(iter(findings), "memory").level is not Level.SKIP
    assert worst(findings) is Level.FAIL


# --- identity ------------------------------------------------------------------------------------


def test_a_missing_key_asks_for_enrolment(path: Path) -> None:
    config = AgentConfig.read(path)
    config.key.unlink()

    assert "mailboat-agent enroll" in one(check_key(config), "key").fix


@pytest.mark.parametrize(
    ("begins", "ends", "level", "says"),
    [
        (timedelta(days=-10), timedelta(days=20), Level.OK, "valid until"),
        (timedelta(days=-25), timedelta(days=5), Level.WARN, "its renewal was due"),
        (timedelta(days=-30), timedelta(days=-1), Level.FAIL, "has expired"),
        (timedelta(days=1), timedelta(days=30), Level.FAIL, "not valid before"),
    ],
    ids=["young", "overdue", "expired", "future"],
)
def test_a_certificate_is_judged_by_its_age(
    path: Path,
    certificates: Certificates,
    begins: timedelta,
    ends: timedelta,
    level: Level,
    says: str,
) -> None:
    certify(path, certificates, begins, ends)
    found = one(check_certificate(AgentConfig.read(path), NOW), "certificate")

    assert found.level is level
    assert says in found.what


def test_a_certificate_of_another_device_is_a_failure(path: Path, server: Server) -> None:
    config = write(path, server.port, device="somebody-else")

    assert "It is of device" in one(check_certificate(config, NOW), "certificate").what


def test_a_certificate_of_another_key_is_a_failure(path: Path, certificates: Certificates) -> None:
    config = AgentConfig.read(path)
    config.certificate.write_bytes(certificates.device()[0].read_bytes())

    assert "does not belong to the key" in one(check_certificate(config, NOW), "certificate").what


# --- trust and time ------------------------------------------------------------------------------


@pytest.fixture
def trusting(path: Path, tmp_path: Path) -> tuple[AgentConfig, datetime]:
    """A device that has accepted metadata, and when that expires."""
    fleet = ModelFleet(tmp_path / "trusted")
    config = AgentConfig.read(path)
    config.trust_root.write_bytes(fleet.factory_root)
    store = TrustStore(config.data_dir, fleet.factory_root)
    store.accept(fleet.read(fleet.bundle()).trust, [])
    expires = expires_at(store.held())
    assert expires is not None
    return config, expires


def test_a_new_device_has_only_its_root(path: Path) -> None:
    found = one(check_trust(AgentConfig.read(path), NOW), "trust")

    assert (found.level, "no manifest has been accepted" in found.what) == (Level.WARN, True)


@pytest.mark.parametrize(
    ("before_the_end", "level", "says"),
    [
        (timedelta(days=4), Level.OK, "Verified from the root"),
        (timedelta(days=2), Level.WARN, "expires"),
        (timedelta(days=-1), Level.WARN, "it serves on and installs nothing"),
    ],
)
def test_metadata_is_judged_by_what_is_left_of_it(
    trusting: tuple[AgentConfig, datetime], before_the_end: timedelta, level: Level, says: str
) -> None:
    config, expires = trusting
    found = one(check_trust(config, expires - before_the_end), "trust")

    assert found.level is level
    assert says in found.what


def test_damaged_trust_is_a_failure(trusting: tuple[AgentConfig, datetime]) -> None:
    config, _ = trusting
    (config.data_dir / "trust/1/timestamp.json").write_bytes(b"{}")

    assert "is damaged" in one(check_trust(config, NOW), "trust").what


def test_a_missing_trust_root_is_a_failure(path: Path) -> None:
    config = AgentConfig.read(path)
    config.trust_root.unlink()

    assert one(check_trust(config, NOW), "trust").level is Level.FAIL


@pytest.mark.parametrize(
    ("year", "level"), [(1970, Level.FAIL), (2100, Level.WARN)], ids=["1970", "2100"]
)
def test_a_clock_that_cannot_be_right_is_noticed(path: Path, year: int, level: Level) -> None:
    found = one(check_clock(AgentConfig.read(path), datetime(year, 1, 2, tzinfo=UTC)), "clock")

    assert found.level is level


# --- the disk ------------------------------------------------------------------------------------


def test_a_directory_that_is_no_directory_cannot_be_written(path: Path, server: Server) -> None:
    (path.parent / "file").write_text("in the way")
    config = write(path, server.port, data_dir="file")

    assert one(check_data_directory(config), "data_dir").level is Level.FAIL


@pytest.mark.skipif(os.getuid() == 0, reason="root writes everywhere")
def test_a_read_only_directory_is_a_failure(path: Path) -> None:
    config = AgentConfig.read(path)
    config.data_dir.chmod(0o500)

    assert "Permission denied" in one(check_data_directory(config), "data_dir").what


@pytest.mark.skipif(os.getuid() != 0, reason="mounting needs root")
@pytest.mark.parametrize(
    ("options", "check", "level"),
    [
        ("ro", "data_dir", Level.FAIL),
        ("rw,size=4m", "disk", Level.FAIL),
        ("rw,size=100m", "disk", Level.WARN),
    ],
    ids=["read-only", "full", "memory"],
)
def test_a_disk_is_judged_by_what_it_can_hold(
    path: Path, options: str, check: str, level: Level
) -> None:
    config = AgentConfig.read(path)
    mount = ["mount", "-t", "tmpfs", "-o", options, "none", str(config.data_dir)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    try:
        findings = [*check_data_directory(config), *check_disk(config)]
    finally:
        subprocess.run(["umount", str(config.data_dir)], check=True)

    assert one(iter(findings), check).level is level


def test_others_who_can_look_in_are_noticed(path: Path) -> None:
    config = AgentConfig.read(path)
    config.data_dir.chmod(0o755)

    assert one(check_data_directory(config), "data_dir").fix == f"chmod 700 {config.data_dir}"


def test_a_ballast_that_was_given_up_is_noticed(path: Path) -> None:
    config = AgentConfig.read(path)
    ballast.give_up_ballast(config.data_dir)

    assert one(check_ballast(config), "ballast").level is Level.WARN


def test_a_damaged_journal_and_state_are_noticed(path: Path) -> None:
    config = AgentConfig.read(path)
    (config.data_dir / "journal.db").write_bytes(b"not a database" * 1000)
    (config.data_dir / "state.json").write_bytes(bytes(100))
    findings = list(check_records(config))

    assert one(iter(findings), "journal").level is Level.FAIL
    assert one(iter(findings), "state").level is Level.WARN


# --- servers -------------------------------------------------------------------------------------


def test_a_server_of_another_ca_is_not_trusted(path: Path, tmp_path: Path) -> None:
    other = Certificates(tmp_path / "other")
    server = Server(other)
    config = write(path, server.port)
    findings = list(check_network(config))
    server.close()

    for check in ("api", "broker"):
        found = one(iter(findings), check)
        assert found.level is Level.FAIL
        assert "is not to be trusted" in found.what
        assert "is it the fleet's server?" in found.fix


def test_a_server_under_another_name_is_not_trusted(path: Path, server: Server) -> None:
    config = write(path, server.port, mqtt_host="127.0.0.2")
    found = one(check_network(config), "broker")

    assert "is not to be trusted" in found.what or "cannot be connected" in found.what


def test_a_server_that_refuses_our_certificate_says_so(
    path: Path, tmp_path: Path, certificates: Certificates
) -> None:
    other = Certificates(tmp_path / "other")
    server = Server(certificates, trusts=other.ca_path)
    config = write(path, server.port)
    found = one(check_network(config), "broker")
    server.close()

    assert found.level is Level.FAIL
    assert "does not accept this device's certificate" in found.what


def test_a_port_where_nobody_listens_is_said_to_be_one(path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        config = write(path, probe.getsockname()[1])
        found = one(check_network(config), "broker")

    assert "Connection refused" in found.what


def test_a_server_that_never_speaks_is_given_up_on(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network_checks, "HANDSHAKE_SECONDS_MAX", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        config = write(path, silent.getsockname()[1])
        found = one(check_network(config), "broker")

    assert "does not speak TLS" in found.what


def test_a_name_that_nobody_knows_is_said_to_be_one(path: Path, server: Server) -> None:
    config = write(path, server.port, mqtt_host="no-such-host.invalid")

    assert "cannot be looked up" in one(check_network(config), "broker").what


def test_files_that_are_no_certificates_end_the_look_at_the_network(path: Path) -> None:
    config = AgentConfig.read(path)
    config.ca.write_text("not a certificate")

    assert [(f.check, f.level) for f in check_network(config)] == [
        ("tls", Level.FAIL),
        ("api", Level.SKIP),
        ("broker", Level.SKIP),
    ]


# --- the host ------------------------------------------------------------------------------------


def test_a_worker_socket_nobody_listens_on_is_a_failure(path: Path, server: Server) -> None:
    config = write(path, server.port, worker_socket="/nonexistent/worker.socket")
    findings = list(check_workers(config))

    assert [finding.check for finding in findings] == ["runtime", "confinement"]
    assert "systemctl status mailboat-worker.socket" in findings[0].fix


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a worker a user")
def test_a_worker_user_that_does_not_exist_is_named(path: Path, server: Server) -> None:
    config = write(path, server.port, worker_user="nobody-we-know")
    found = one(check_workers(config), "confinement.user")

    assert found.level is Level.WARN
    assert "there is no user 'nobody-we-know'" in found.what
    assert "install-service" in found.fix


@pytest.mark.parametrize(
    ("budget", "level"), [("1MiB", Level.OK), ("9000GiB", Level.FAIL)], ids=["small", "absurd"]
)
def test_a_memory_budget_is_held_against_the_machine(
    path: Path, server: Server, budget: str, level: Level
) -> None:
    config = write(path, server.port, memory_budget=budget)

    assert one(check_memory(config), "memory").level is level


def test_a_control_group_is_the_limit_where_it_is_lower(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "memory.max").write_text(f"{96 << 20}\n")
    monkeypatch.setattr(host_checks, "_limit_files", lambda: [tmp_path / "memory.max"])
    found = one(check_memory(AgentConfig.read(path)), "memory")

    assert found.level is Level.WARN
    assert "96 MiB (of its control group)" in found.what


def test_nobody_who_would_start_the_agent_again_is_noticed(path: Path) -> None:
    found = one(check_service(AgentConfig.read(path)), "service")

    assert found.level is not Level.OK
    assert found.fix

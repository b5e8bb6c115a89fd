"""The units as they would be installed, judged by systemd itself."""

import re
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

from mailboat_agent.cli import EXIT_OK, EXIT_USAGE, main
from mailboat_agent.config import AgentConfig
from mailboat_agent.doctor.unit_view import as_its_unit
from mailboat_agent.install_service import UNITS, Installation, hidden_in, unit_files
from mailboat_agent.serving.spawn import WORKER_ENVIRONMENT
from mailboat_schemas.errors import ConfigurationInvalid

ANALYZE = shutil.which("systemd-analyze")
EXPOSURE_MAX = 2.5
needs_systemd = pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")

SETTINGS = """
fleet = "f"
device = "d-1"
hardware_class = "box"
data_dir = "data"
api_url = "https://controller"
mqtt_host = "controller"
mqtt_port = 8883
ca = "identity/ca.pem"
certificate = "identity/device.pem"
key = "{key}"
trust_root = "identity/root.json"
memory_budget = "300MiB"
"""
CONFIG = Path("/var/lib/mailboat/agent.toml")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Of an image that is being made: enrolled, not yet installed."""
    path = tmp_path / "var/lib/mailboat/agent.toml"
    (path.parent / "identity").mkdir(parents=True)
    (path.parent / "identity/device.key").touch()
    path.write_text(SETTINGS.format(key="identity/device.key"))
    return tmp_path


def installed(root: Path, *arguments: str) -> Path:
    assert main(["install-service", "--root", str(root), *arguments]) == EXIT_OK
    return root / "etc/systemd/system"


@needs_systemd
def test_systemd_takes_the_units_without_a_word(root: Path) -> None:
    directory = installed(root)
    done = subprocess.run(
        [str(ANALYZE), "verify", "--man=no", *(str(directory / name) for name in UNITS)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")


@needs_systemd
@pytest.mark.parametrize("unit", ["mailboat-agent.service", "mailboat-worker@.service"])
def test_systemd_finds_the_units_little_exposed(root: Path, unit: str) -> None:
    directory = installed(root)
    command = [str(ANALYZE), "security", "--offline=true", "--no-pager", str(directory / unit)]
    said = subprocess.check_output(command, text=True, timeout=60)
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said)

    assert found is not None
    assert float(found[1]) <= EXPOSURE_MAX


def test_the_units_name_this_installation(root: Path) -> None:
    directory = installed(root)
    agent = (directory / "mailboat-agent.service").read_text()
    worker = (directory / "mailboat-worker@.service").read_text()

    assert f"ExecStart={Path(sys.executable).parent}/mailboat-agent run --config {CONFIG}" in agent
    assert f"ExecStart={sys.executable} -P -m mailboat_agent.serving.worker --accepted" in worker
    assert "MemoryMax=812M" in worker
    assert "LoadCredential" not in agent
    assert (root / "etc/sysusers.d/mailboat.conf").read_text().endswith("g mailboat-worker -\n")


def test_agent_and_worker_meet_at_the_same_socket(root: Path) -> None:
    directory = installed(root)
    agent = (directory / "mailboat-agent.service").read_text()
    socket = (directory / "mailboat-worker.socket").read_text()
    listens = re.search(r"^ListenStream=(.+)$", socket, re.MULTILINE)
    group = re.search(r"^SocketGroup=(.+)$", socket, re.MULTILINE)

    assert listens is not None
    assert group is not None
    assert f"Environment=MAILBOAT_WORKER_SOCKET={listens[1]}\n" in agent
    assert f"SupplementaryGroups={group[1]}\n" in agent
    assert f"Requires={UNITS[1]}\n" in agent


def test_a_worker_has_the_same_environment_in_both_lives() -> None:
    shipped = resources.files("mailboat_agent").joinpath("systemd", UNITS[2]).read_text()
    line = " ".join(f"{name}={value}" for name, value in WORKER_ENVIRONMENT.items())

    assert f"Environment={line}\n" in shipped


def test_a_key_as_a_credential_may_lie_where_only_root_reads(root: Path) -> None:
    (root / "var/lib/mailboat/agent.toml").write_text(SETTINGS.format(key="/etc/keys/device.key"))
    with pytest.raises(ConfigurationInvalid, match="key lies outside"):
        unit_files(Installation(config=CONFIG, root=root))

    directory = installed(root, "--key-credential", "/etc/keys/device.cred", "--encrypted")
    agent = (directory / "mailboat-agent.service").read_text()

    assert "\nLoadCredentialEncrypted=device.key:/etc/keys/device.cred\n" in agent


def test_a_credential_stands_above_the_key_in_the_configuration(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "device.key").write_text("key")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    monkeypatch.setenv("MAILBOAT_WORKER_SOCKET", "/run/mailboat-worker.socket")

    config = AgentConfig.read(root / "var/lib/mailboat/agent.toml")

    assert config.key == credentials / "device.key"
    assert config.renewal_key == "same"  # the agent cannot write a new one there
    assert config.worker_socket == Path("/run/mailboat-worker.socket")


def test_a_configuration_the_unit_could_not_read_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(SETTINGS.format(key="device.key"))

    assert main(["install-service", "--config", str(path), "--print"]) == EXIT_USAGE
    assert "lies outside of /var/lib/mailboat" in capsys.readouterr().err


def test_no_unit_is_written_for_a_key_that_is_not_there(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As when it is installed again, and the option for the credential is forgotten."""
    (root / "var/lib/mailboat/identity/device.key").unlink()

    assert main(["install-service", "--root", str(root)]) == EXIT_USAGE
    assert "--key-credential as the first time" in capsys.readouterr().err
    assert not (root / "etc").exists()


def test_programs_where_the_units_users_may_not_look_are_known(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (closed / "python").touch()

    assert hidden_in(Path("/home/alice/.venv/bin/python")) is not None
    assert hidden_in(closed / "python") is not None
    assert hidden_in(Path("/bin/sh")) is None


def test_workers_and_those_who_may_connect_to_them_have_different_names(root: Path) -> None:
    """systemd makes no user of a name that only a group has, and starts no worker then."""
    directory = installed(root)
    worker = (directory / "mailboat-worker@.service").read_text()
    socket = (directory / "mailboat-worker.socket").read_text()
    user = re.search(r"^User=(.+)$", worker, re.MULTILINE)
    group = re.search(r"^SocketGroup=(.+)$", socket, re.MULTILINE)

    assert user is not None
    assert group is not None
    assert user[1] != group[1]


def test_the_agent_waits_for_no_network_and_no_time_server(root: Path) -> None:
    agent = (installed(root) / "mailboat-agent.service").read_text()
    settings = [line for line in agent.splitlines() if not line.startswith("#")]

    assert not [line for line in settings if "online" in line or "time-sync" in line]


def test_what_decodes_a_patch_may_confine_itself_in_the_agents_unit(root: Path) -> None:
    """It is a child of the agent, and under the agent's filter."""
    directory = installed(root)
    needed = "landlock_create_ruleset landlock_restrict_self seccomp"

    for unit in ("mailboat-agent.service", "mailboat-worker@.service"):
        content = (directory / unit).read_text()
        assert f"SystemCallFilter=@system-service {needed}\n" in content


def test_a_credential_that_cannot_be_read_is_named(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = tmp_path / ("x" * 300)  # longer than any name a file system has
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(loop))

    with pytest.raises(ConfigurationInvalid, match="LoadCredential="):
        AgentConfig.read(root / "var/lib/mailboat/agent.toml")


def test_doctor_looks_at_the_workers_and_the_key_of_the_installed_unit(root: Path) -> None:
    path = root / "var/lib/mailboat/agent.toml"
    config = AgentConfig.read(path)
    unit = installed(root, "--key-credential", "/etc/keys/device.key") / UNITS[0]
    unit.write_text(unit.read_text().replace(str(CONFIG), str(path)))

    seen = as_its_unit(config, path, unit)

    assert seen.worker_socket == Path("/run/mailboat-worker.socket")
    assert seen.key == Path("/run/credentials/mailboat-agent.service/device.key")
    assert as_its_unit(config, path.with_name("other.toml"), unit) == config
    assert as_its_unit(config, path, root / "no such unit") == config


def test_print_shows_every_file_and_writes_none(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    installed(root, "--print")
    said = capsys.readouterr().out

    assert all(f"# /etc/systemd/system/{name}\n" in said for name in UNITS)
    assert not (root / "etc").exists()


def test_installing_again_changes_nothing(root: Path) -> None:
    first = {path: path.read_bytes() for path in installed(root).iterdir()}
    again = {path: path.read_bytes() for path in installed(root).iterdir()}

    assert first == again
    assert {oct(path.stat().st_mode & 0o777) for path in first} == {"0o644"}

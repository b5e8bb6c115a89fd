"""The units as `install-service` writes them, under a real systemd: started, killed, looked into.

One machine and one fleet for all of them, because they take seconds to come up; every test leaves
the agent running. Skipped, with the reason, where this host gives no machine of its own.
"""

import json
import os
import re
import textwrap
import urllib.request
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mailboat_controller.deltas.zstd_patch import build_zstd_patch
from real_fleet import RealFleet, running_fleet
from systemd_machine import Machine, systemd_machine

pytestmark = pytest.mark.slow

AGENT, WORKERS = "mailboat-agent.service", "mailboat-worker@*.service"
CONFIG = "/var/lib/mailboat/agent.toml"
KIT = "/root/kit.json"
DEVICE = "kiosk-1"
VERSION = "1.0.0"
EXPOSURE_MAX = 2.5
SETTLE_SECONDS_MAX = 60
WATCHDOG_SECONDS = 4
RUNTIME_SECONDS_MAX = 90  # it asks again every thirty
OVERFLOW_UID = 65534


@dataclass(frozen=True, slots=True)
class Installed:
    machine: Machine
    fleet: RealFleet

    @property
    def pid(self) -> int:
        """Of the agent; 0 while it does not run."""
        return int(self.machine.property_of(AGENT, "MainPID"))

    def worker(self) -> str:
        """The only unit of a worker, once it is alone: there are more during a start or a trial."""
        self.machine.until(
            "one worker", lambda: len(self.machine.units(WORKERS)) == 1, SETTLE_SECONDS_MAX
        )
        return self.machine.units(WORKERS)[0]

    def read(self, name: str) -> dict[str, Any]:
        try:
            path = self.machine.root / "var/lib/private/mailboat/data" / name
            content: dict[str, Any] = json.loads(path.read_text())
        except (OSError, ValueError):
            return {}
        return content

    def serves(self, version: str = VERSION) -> bool:
        """The model answers through the gateway, so its worker stands."""
        url = self.read("serving.json").get("url")
        if url is None:
            return False
        try:
            url = f"{url}/v2/models/vad/versions/{version}/ready"
            with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - its own, on loopback
                return bool(answer.status == 200)
        except OSError:
            return False

    def wait_until_it_serves(self) -> None:
        self.machine.until("it serves", self.serves, SETTLE_SECONDS_MAX)

    def status_of(self, pid: int) -> dict[str, str]:
        lines = (self.machine.root / f"proc/{pid}/status").read_text().splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}

    def run_in_the_agents_sandbox(self, program: str) -> list[str]:
        """What a program prints under the settings of the agent's unit, line by line."""
        root = self.machine.root
        (root / "opt/mailboat/probe.py").write_text(textwrap.dedent(program))
        unit = (root / "etc/systemd/system" / AGENT).read_text()
        for pattern, instead in (
            (r"^Type=.*", "Type=oneshot"),
            (r"^(WatchdogSec|Restart|StateDirectory)=.*\n", ""),
            (r"^ExecStart=.*", "ExecStart=/opt/mailboat/bin/python /opt/mailboat/probe.py"),
            (r"^User=.*", "User=mailboat-probe"),
        ):
            unit = re.sub(pattern, instead, unit, flags=re.MULTILINE)
        (root / "run/systemd/system").mkdir(parents=True, exist_ok=True)
        name = f"probe-{zlib.crc32(program.encode())}.service"
        (root / "run/systemd/system" / name).write_text(unit)
        self.machine.run("systemctl", "daemon-reload")
        self.machine.run("systemctl", "start", name)
        self.machine.run("journalctl", "--sync")
        return self.machine.journal(f"--unit={name}").splitlines()


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    directory = tmp_path_factory.mktemp("systemd")
    with (
        systemd_machine(directory / "machine") as machine,
        running_fleet(directory / "fleet", devices_per_class=0) as fleet,
    ):
        _enrol(machine, directory / "fleet")
        machine.run("mailboat-agent", "install-service")
        machine.run("systemd-sysusers")
        machine.run("systemctl", "daemon-reload")
        machine.run("systemctl", "enable", "--now", "mailboat-worker.socket", AGENT)
        installed = Installed(machine, fleet)
        fleet.publish("first", VERSION)
        installed.wait_until_it_serves()
        yield installed


def _enrol(machine: Machine, fleet: Path) -> None:
    (machine.root / KIT[1:]).write_text((fleet / "kit-kiosk-x86.json").read_text())
    machine.run(
        *("mailboat-agent", "enroll", "--kit", KIT, "--device", DEVICE),
        *("--config", CONFIG, "--data-dir", "/var/lib/mailboat/data"),
    )


def test_the_worker_is_another_user_without_a_network(device: Installed) -> None:
    machine = device.machine
    worker = int(machine.property_of(device.worker(), "MainPID"))
    agent_status, worker_status = device.status_of(device.pid), device.status_of(worker)
    network = (machine.root / f"proc/{worker}/net/dev").read_text().splitlines()[2:]

    assert machine.property_of(AGENT, "SubState") == "running"
    assert agent_status["Uid"] != worker_status["Uid"]
    assert "0" not in {*agent_status["Uid"].split(), *worker_status["Uid"].split()}
    for status in (agent_status, worker_status):
        assert {status[name] for name in status if name.startswith("Cap")} == {"0" * 16}
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert [line.split(":")[0].strip() for line in network] == ["lo"]


def test_nobody_but_the_agent_reaches_what_it_keeps(device: Installed) -> None:
    owner = device.status_of(device.pid)["Uid"].split()[0]
    private = device.machine.root / "var/lib/private/mailboat"
    others = private.stat().st_mode & 0o077
    owners = {str(path.lstat().st_uid) for path in (private, *private.rglob("*"))}

    assert (others, owners) == (0, {owner})


def test_doctor_finds_every_layer_held_around_the_worker_of_the_unit(device: Installed) -> None:
    said = json.loads(device.machine.run("mailboat-agent", "doctor", "--config", CONFIG, "--json"))
    findings = {each["check"]: each for each in said["findings"]}
    layers = {name: each for name, each in findings.items() if name.startswith("confinement.")}

    assert {each["level"] for each in layers.values()} == {"ok"}, layers
    assert "of its own unit" in layers["confinement.user"]["what"]
    assert findings["service"]["level"] == "ok"
    # Not even root's looking leaves anything behind that the agent could not write.
    test_nobody_but_the_agent_reaches_what_it_keeps(device)


def test_what_decodes_a_patch_is_confined_in_the_agents_unit(device: Installed) -> None:
    lines = device.run_in_the_agents_sandbox(
        """
        from mailboat_agent.serving import confinement
        layers = confinement.at_start(user="nobody", parent_uid=None)
        layers += confinement.before_the_model(opens_files=False, memory_limit_bytes=1 << 28)
        for layer in layers:
            print("layer", layer.name, layer.holds)
        """
    )
    held = {words[1]: words[2] for words in map(str.split, lines) if words[:1] == ["layer"]}

    assert len(held) == 14
    assert set(held.values()) == {"True"}, held


def test_a_patch_is_decoded_in_the_agents_unit(device: Installed) -> None:
    base = bytes(range(256)) * 4000
    target = base[:500_000] + b"changed" + base[500_000:]
    patch = build_zstd_patch(base, target)
    place = device.machine.root / "opt/mailboat"
    for name, content in (("base", base), ("target", target), ("patch", patch.content)):
        (place / name).write_bytes(content)

    lines = device.run_in_the_agents_sandbox(
        f"""
        import os, threading
        from pathlib import Path
        from mailboat_agent.delta.decoding import Decoding, decode_into
        place = Path("/opt/mailboat")
        decoding = Decoding(
            base_fd=os.open(place / "base", os.O_RDONLY),
            base_length={len(base)},
            patch_fd=os.open(place / "patch", os.O_RDONLY),
            target_length={len(target)},
            memory_bytes={patch.memory_bytes},
        )
        decode_into(Path("/tmp/outcome"), decoding, threading.Event())
        same = Path("/tmp/outcome").read_bytes() == (place / "target").read_bytes()
        print("same" if same else "different")
        """
    )

    assert "same" in lines


@pytest.mark.parametrize("victim", ["worker", "agent"])
def test_killed_without_warning_it_is_back_and_serves(device: Installed, victim: str) -> None:
    machine = device.machine
    before, worker = device.pid, device.worker()
    unit = AGENT if victim == "agent" else worker
    machine.run("systemctl", "kill", "--signal=KILL", "--kill-who=main", unit)
    # The worker ends with the agent, though nobody tells it to.
    machine.until(
        "the worker is gone", lambda: worker not in machine.units(WORKERS), SETTLE_SECONDS_MAX
    )
    machine.until("another worker", lambda: machine.units(WORKERS), SETTLE_SECONDS_MAX)

    device.wait_until_it_serves()
    assert (device.pid != before) == (victim == "agent")


def test_stopped_it_leaves_no_worker_and_started_it_serves(device: Installed) -> None:
    machine = device.machine
    machine.run("systemctl", "stop", AGENT)

    assert machine.property_of(AGENT, "Result") == "success"
    machine.until("no worker is left", lambda: not machine.units(WORKERS), SETTLE_SECONDS_MAX)

    machine.run("systemctl", "start", AGENT)
    device.wait_until_it_serves()


def test_an_agent_that_stands_still_is_started_again(device: Installed) -> None:
    machine = device.machine
    override = machine.root / f"etc/systemd/system/{AGENT}.d/watchdog.conf"
    override.parent.mkdir()
    override.write_text(f"[Service]\nWatchdogSec={WATCHDOG_SECONDS}\n")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", AGENT)
    device.wait_until_it_serves()
    frozen = device.pid
    beaten = machine.property_of(AGENT, "WatchdogTimestampMonotonic")
    machine.until(
        "it feeds the watchdog",
        lambda: machine.property_of(AGENT, "WatchdogTimestampMonotonic") != beaten,
        SETTLE_SECONDS_MAX,
    )
    assert device.pid == frozen

    machine.run("systemctl", "kill", "--signal=STOP", "--kill-who=main", AGENT)
    machine.until("another agent", lambda: device.pid not in (0, frozen), SETTLE_SECONDS_MAX)

    override.unlink()
    machine.run("systemctl", "daemon-reload")
    device.wait_until_it_serves()


def test_a_worker_that_fails_at_the_start_is_no_verdict_on_the_runtime(device: Installed) -> None:
    machine = device.machine
    override = machine.root / "etc/systemd/system/mailboat-worker@.service.d/broken.conf"
    override.parent.mkdir()
    override.write_text("[Service]\nExecStart=\nExecStart=/bin/false\n")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", AGENT)

    def runtime_version() -> object:
        status = device.read("status.json")
        if status.get("pid") != device.pid:
            return None
        return status["report"]["facts"]["runtime_version"]

    machine.until("it knows of no runtime", lambda: runtime_version() == "", SETTLE_SECONDS_MAX)
    override.unlink()
    machine.run("systemctl", "daemon-reload")

    machine.until("it knows its runtime", runtime_version, RUNTIME_SECONDS_MAX)
    device.wait_until_it_serves()


def test_it_waits_for_no_network(device: Installed) -> None:
    """A device without a network serves, though others wait for the network until they give up."""
    machine = device.machine
    units = {
        "wait-for-ever.service": """
            [Unit]
            Before=network-online.target time-sync.target
            [Service]
            Type=oneshot
            ExecStart=/bin/sleep infinity
            """,
        "others.target": """
            [Unit]
            Wants=wait-for-ever.service network-online.target time-sync.target
            """,
    }
    for name, content in units.items():
        (machine.root / "run/systemd/system" / name).write_text(textwrap.dedent(content))
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "stop", AGENT)
    machine.run("systemctl", "start", "--no-block", "others.target")
    try:
        machine.run("systemctl", "start", "--no-block", AGENT)
        device.wait_until_it_serves()
        waits = machine.property_of("network-online.target", "ActiveState")
    finally:
        machine.run("systemctl", "stop", "wait-for-ever.service")

    assert waits == "inactive"


@pytest.mark.parametrize("pattern", [AGENT, WORKERS])
def test_systemd_finds_what_runs_little_exposed(device: Installed, pattern: str) -> None:
    unit = device.worker() if pattern == WORKERS else pattern
    said = device.machine.run("systemd-analyze", "security", "--no-pager", unit)
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said)

    assert found is not None
    assert float(found[1]) <= EXPOSURE_MAX


@pytest.mark.parametrize("encrypted", [False, True])
def test_the_key_may_be_a_credential_and_lies_nowhere_else(
    device: Installed, encrypted: bool
) -> None:
    machine = device.machine
    kept = machine.root / "var/lib/private/mailboat/identity/device.key"
    source = machine.root / "etc/mailboat/device.key"
    source.parent.mkdir(mode=0o700, exist_ok=True)
    owner = kept.stat()
    key = kept.read_bytes()
    source.write_bytes(key)
    option = ["--key-credential", "/etc/mailboat/device.key"]
    if encrypted:
        words = ("systemd-creds", "encrypt", "--with-key=host", "--name=device.key")
        machine.run(*words, "/etc/mailboat/device.key", "/etc/mailboat/device.key.cred")
        option = ["--key-credential", "/etc/mailboat/device.key.cred", "--encrypted"]
        source.unlink()
    kept.unlink()
    try:
        machine.run("mailboat-agent", "install-service", *option)
        machine.run("systemctl", "daemon-reload")
        machine.run("systemctl", "restart", AGENT)
        device.wait_until_it_serves()
        machine.until(
            "connected", lambda: device.read("status.json").get("connected"), SETTLE_SECONDS_MAX
        )
        said = json.loads(
            machine.run("mailboat-agent", "doctor", "--config", CONFIG, "--json", ok=False)
        )
        levels = {each["check"]: each["level"] for each in said["findings"]}

        assert not kept.exists()
        assert {levels[name] for name in ("key", "certificate", "api", "broker")} == {"ok"}
        assert "install-service" not in machine.run("mailboat-agent", "install-service", ok=False)
    finally:
        kept.write_bytes(key)
        kept.chmod(0o600)
        os.chown(kept, owner.st_uid, owner.st_gid)
        machine.run("mailboat-agent", "install-service")
        machine.run("systemctl", "daemon-reload")
        machine.run("systemctl", "restart", AGENT)
        device.wait_until_it_serves()


def test_the_journal_tells_no_secret(device: Installed) -> None:
    key = (device.machine.root / "var/lib/private/mailboat/identity/device.key").read_text()
    token = json.loads((device.machine.root / KIT[1:]).read_text())["token"]
    told = device.machine.journal("--output=export", "--all")

    assert DEVICE in told or "Serving on" in told, "there is something to look through"
    assert token not in told
    assert not [line for line in key.splitlines() if line in told]

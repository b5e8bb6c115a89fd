"""docs/machine.md: a boot is called good by what the machine does, not by the network."""

import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_process import AgentProcess, until
from attack_siege import SERVED, Stronghold

REPOSITORY = Path(__file__).parents[2]
CHECK = REPOSITORY / "examples" / "boot_check.py"
PAGE = REPOSITORY / "docs" / "machine.md"
CHECK_SECONDS_MAX = 300


def checked(agent: AgentProcess, seconds: int) -> tuple[int, str]:
    config = str(agent.directory / "agent.toml")
    done = subprocess.run(
        [sys.executable, str(CHECK), config, str(seconds)],
        capture_output=True,
        text=True,
        timeout=CHECK_SECONDS_MAX,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[AgentProcess]:
    """A device with a release on its disk, which nobody can be reached from."""
    stronghold = Stronghold(tmp_path / "stronghold")
    directory = tmp_path / "device"
    directory.mkdir()
    siege = stronghold.besiege(directory)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound and not listening: every connection is refused
        port = nobody.getsockname()[1]
        url = f"https://127.0.0.1:{port}"
        agent = AgentProcess(directory, stronghold.certificates, siege.fleet.factory_root, url)
        agent.key.chmod(0o600)
        agent.start(port)
        try:
            yield agent
        finally:
            agent.kill()


@pytest.mark.slow
@pytest.mark.timeout(3 * CHECK_SECONDS_MAX)
def test_a_boot_is_good_without_a_network_and_bad_without_what_is_installed(
    agent: AgentProcess,
) -> None:
    assert checked(agent, CHECK_SECONDS_MAX // 2) == (0, "This boot is good.\n")
    assert [each["serving_version"] for each in agent.report()["models"]] == [SERVED]

    agent.kill()
    assert checked(agent, 1) == (1, "This boot is not good: no agent runs\n")

    # As on an image whose onnxruntime does not start: no worker, and so no verdict on a release.
    agent.settings["worker_socket"] = str(agent.directory / "nobody.sock")
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        agent.start(port.getsockname()[1])
        until((agent.data / "status.json").exists)
        code, said = checked(agent, 1)
    assert code == 1, said
    assert "does not serve" in said or "runtime" in said


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_the_units_of_the_page_are_ones_that_systemd_takes(tmp_path: Path) -> None:
    units = re.findall(r"```ini (\S+)\n(.*?)```", PAGE.read_text(), re.DOTALL)
    for name, content in units:
        runnable = re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", content, flags=re.MULTILINE)
        (tmp_path / name).write_text(runnable)
    # What they wait for is of another machine.
    (tmp_path / "mailboat-agent.service").write_text("[Service]\nExecStart=/bin/true\n")

    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / name) for name, _ in units)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert len(units) == 2
    assert (done.returncode, done.stderr) == (0, "")

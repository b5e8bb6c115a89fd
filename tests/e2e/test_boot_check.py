"""docs/machine.md: a boot is called good by what the machine does, not by the network."""

import json
import re
import runpy
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent_process import AgentProcess, until
from attack_siege import SERVED, Stronghold
from mailboat_schemas.staleness import STOPPED_NOTE

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


Missing = Callable[[Any, Any], str]


@pytest.fixture
def missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Missing:
    """What the check still misses where `mailboat-agent status` and `doctor` say this."""
    check = runpy.run_path(str(CHECK))
    command = tmp_path / "mailboat-agent"
    command.write_text(f'#!/bin/sh\ncat "{tmp_path}/$1"\n')
    command.chmod(0o755)
    monkeypatch.setitem(check["told"].__globals__, "AGENT", command)

    def missing(status: Any, doctor: Any) -> str:
        (tmp_path / "status").write_text(json.dumps(status))
        (tmp_path / "doctor").write_text(json.dumps(doctor))
        because: str = check["missing"]("agent.toml")
        return because

    return missing


def standing(serving: str | None, phase: str = "committed", *notes: str) -> Any:
    model = {"model": "vad", "phase": phase, "serving_version": serving}
    return {"report": {"notes": list(notes), "models": [model]}}


def findings(check: str, level: str) -> Any:
    return {"findings": [{"check": check, "level": level, "what": "broken", "fix": ""}]}


def test_what_is_installed_must_serve_unless_it_stands_still_on_purpose(missing: Missing) -> None:
    assert missing(standing("1.0.0"), {"findings": []}) == ""
    assert missing(standing(None), {"findings": []}) == "vad is installed and does not serve"
    assert missing(standing(None, "soak"), {"findings": []}) != ""
    assert missing(standing(None, "staging"), {"findings": []}) == ""
    for note in ("nothing_to_serve:vad", f"{STOPPED_NOTE}vad"):
        assert missing(standing(None, "committed", note), {"findings": []}) == ""
    others = (f"{STOPPED_NOTE}other", "worker_restarting:vad")
    assert missing(standing(None, "committed", *others), {"findings": []}) != ""


def test_what_an_image_can_break_counts_and_what_a_network_can_break_does_not(
    missing: Missing,
) -> None:
    assert missing(standing("1.0.0"), findings("runtime", "fail")) == "runtime: broken"
    assert missing(standing("1.0.0"), findings("runtime", "warn")) == ""
    for check in ("api", "broker", "certificate", "clock"):
        assert missing(standing("1.0.0"), findings(check, "fail")) == ""


def test_an_agent_that_says_nothing_that_can_be_read_is_none_that_runs(missing: Missing) -> None:
    for answer in ([], {}, {"report": None}):
        assert missing(answer, {}) == "no agent runs"


def test_the_checks_that_count_are_ones_that_the_doctor_makes() -> None:
    doctor = REPOSITORY / "agent" / "mailboat_agent" / "doctor"
    sources = "".join(path.read_text() for path in doctor.glob("*.py"))

    for check in runpy.run_path(str(CHECK))["OF_THE_MACHINE"]:
        assert re.search(rf'\b(?:ok|fail)\(\s*"{check}"', sources), check


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

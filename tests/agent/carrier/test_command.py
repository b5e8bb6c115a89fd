"""`mailboat-agent import` as a command, beside an agent that runs and one that does not."""

import errno
import json
import os
import signal
import socket
from pathlib import Path

import pytest

from agent_process import AgentProcess, until
from carrying import config_of, export
from mailboat_agent.cli import EXIT_FAILURE, EXIT_OK, EXIT_TRUST, EXIT_USAGE, main
from mailboat_agent.config import to_toml
from model_fleet import Certificates, ModelFleet


@pytest.fixture
def config(data_dir: Path, fleet: ModelFleet, tmp_path: Path) -> Path:
    settings = config_of(data_dir, fleet).model_dump(
        mode="json", exclude_unset=True, exclude_none=True
    )
    path = tmp_path / "agent.toml"
    path.write_text(to_toml(settings))
    return path


@pytest.fixture
def stick(fleet: ModelFleet, tmp_path: Path) -> Path:
    export(tmp_path / "stick", fleet, fleet.current(fleet.model_release("1.0.0")))
    return tmp_path / "stick"


def test_without_an_agent_it_says_when_it_is_installed(
    config: Path, stick: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["import", str(stick), "--config", str(config)]) == EXIT_OK
    said = capsys.readouterr()
    assert "vad 1.0.0" in said.out
    assert "it installs this when it starts" in said.out
    assert said.err == ""

    assert main(["import", str(stick), "--config", str(config), "--json"]) == EXIT_OK
    told = json.loads(capsys.readouterr().out)
    assert (told["agent"], told["copied_files"], told["held_files"]) == ("stopped", 0, 2)


def test_a_file_of_no_use_has_an_exit_status_of_its_own_and_a_next_step(
    config: Path, stick: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stranger = ModelFleet(tmp_path / "stranger")
    export(tmp_path / "f", stranger, stranger.current(stranger.model_release("1.0.0")))
    os.truncate(stick, 9000)

    assert main(["import", str(tmp_path / "f"), "--config", str(config)]) == EXIT_TRUST
    assert main(["import", str(stick), "--config", str(config)]) == EXIT_FAILURE
    assert main(["import", str(tmp_path / "no"), "--config", str(config)]) == EXIT_FAILURE
    assert main(["import", str(stick), "--config", str(tmp_path / "no")]) == EXIT_USAGE
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("next step:") == 4


def test_without_the_right_to_write_it_says_who_may(
    config: Path,
    stick: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(_path: Path, **_how: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refused)
    assert main(["import", str(stick), "--config", str(config)]) == EXIT_USAGE
    assert "as root or as the agent's user" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_what_root_imports_belongs_to_the_agent(
    config: Path, stick: Path, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.chown(data_dir, 65534, 65534)

    assert main(["import", str(stick), "--config", str(config)]) == EXIT_OK
    made = [path for path in data_dir.rglob("*") if path.stat().st_uid != 65534]
    assert made == []


@pytest.mark.slow
def test_a_running_agent_without_any_network_installs_and_serves_it(
    fleet: ModelFleet,
    stick: Path,
    certificates: Certificates,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound and not listening: every connection is refused
        port = nobody.getsockname()[1]
        (tmp_path / "device").mkdir()
        agent = AgentProcess(
            tmp_path / "device", certificates, fleet.factory_root, f"https://127.0.0.1:{port}"
        )
        agent.start(port)
        try:
            until(agent.report)
            config = str(tmp_path / "device" / "agent.toml")
            assert main(["import", str(stick), "--config", config, "--json"]) == EXIT_OK
            assert json.loads(capsys.readouterr().out)["agent"] == "taken"
            until(lambda: any(m["phase"] == "committed" for m in agent.report()["models"]))
            assert agent.infer([0, 1, 2, 3]) == [1, 3, 5, 7]
        finally:
            if agent.process is not None:
                agent.process.send_signal(signal.SIGTERM)
                agent.process.wait(60)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_nothing_of_an_import_is_roots_at_any_moment(
    config: Path, stick: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent may reach for each file as soon as it has its name, and could not read it."""
    os.chown(data_dir, 65534, 65534)
    replace, named = Path.replace, []

    def watched(path: Path, target: Path) -> Path:
        if path.is_relative_to(data_dir):
            named.append(path.stat().st_uid)
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", watched)

    assert main(["import", str(stick), "--config", str(config)]) == EXIT_OK
    assert set(named) == {65534}
    assert os.geteuid() == 0

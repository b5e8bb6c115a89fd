"""Two agents at one site, as processes: one helps the other out, and no more than it may."""

import json
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from agent_process import PATIENCE_SECONDS, AgentProcess, broker_that_retains, until
from attack_siege import FACTOR, Siege, Stronghold
from mailboat_agent.status import read_status
from mailboat_agent.status_lines import describe
from mailboat_schemas.desired import Assignment
from model_fleet import MODEL

pytestmark = pytest.mark.slow
ROW = {"name": "y", "dtype": "float32", "shape": [-1, 4], "values": [-1, -1, -1, -1]}


def ask(agent: AgentProcess) -> tuple[int, list[float], dict[str, str]]:
    """Status, values and headers in lower case."""
    url = json.loads((agent.data / "serving.json").read_bytes())["url"]
    x = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [0, 1, 2, 3]}
    request = urllib.request.Request(  # noqa: S310
        f"{url}/v2/models/{MODEL}/infer", json.dumps({"inputs": [x]}).encode()
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            headers = {name.lower(): value for name, value in answer.headers.items()}
            return answer.status, json.load(answer)["outputs"][0]["data"], headers
    except urllib.error.HTTPError as error:
        with closing(error):
            return error.code, [], {}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[AgentProcess, Siege, int]]:
    """A neighbour that serves and reaches nobody; and what the other agent is made of."""
    stronghold = Stronghold(tmp_path / "stronghold")
    (tmp_path / "well").mkdir()
    siege = stronghold.besiege(tmp_path / "well")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound and not listening: every connection is refused
        port = nobody.getsockname()[1]
        well = AgentProcess(
            tmp_path / "well",
            stronghold.certificates,
            siege.fleet.factory_root,
            f"https://127.0.0.1:{port}",
        )
        processes = [well]
        try:
            well.start(port)
            until((well.data / "serving.json").exists)
            until(lambda: ask(well)[0] == 200)
            second = stronghold.besiege(tmp_path / "ill")
            url = json.loads((well.data / "serving.json").read_bytes())["url"]
            ill = AgentProcess(
                tmp_path / "ill",
                stronghold.certificates,
                second.fleet.factory_root,
                f"https://127.0.0.1:{port}",
                settings={
                    "remote": [
                        {"name": "well", "url": url, "models": [MODEL], "kind": "neighbour"}
                    ],
                    "fallback": [{"model": MODEL, "outputs": [ROW]}],
                    "telemetry_window_seconds": 0.5,
                },
            )
            processes.append(ill)
            yield ill, second, port
        finally:
            for agent in processes:
                if agent.process is not None:
                    agent.process.send_signal(signal.SIGTERM)
                    agent.process.wait(60)


def kill_worker(agent: AgentProcess) -> None:
    assert agent.process is not None
    for child in psutil.Process(agent.process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # one that was killed before
            if "worker" in " ".join(child.cmdline()):
                child.kill()


def test_a_neighbour_helps_while_the_worker_is_down_and_tells_so(
    site: tuple[AgentProcess, Siege, int],
) -> None:
    ill, _, port = site
    ill.start(port)
    until((ill.data / "serving.json").exists)
    until(lambda: ask(ill)[0] == 200)
    marks: set[str | None] = set()
    answered = FACTOR * 3 + 1
    give_up = time.monotonic() + PATIENCE_SECONDS
    while "neighbour" not in marks and time.monotonic() < give_up:
        kill_worker(ill)
        for _ in range(5):
            status, values, headers = ask(ill)
            assert (status, values[3]) == (200, answered)  # nobody notices but by the mark
            marks.add(headers.get("mailboat-degraded"))

    assert "neighbour" in marks
    until(lambda: f"degraded:{MODEL}:neighbour" in ill.report().get("notes", []))
    lines = describe(read_status(ill.data))
    assert any(line.startswith(f"degraded  {MODEL}: neighbour") for line in lines)
    until(lambda: "mailboat-degraded" not in ask(ill)[2])  # its own worker is back
    ill.kill()
    told = [(event.kind, event.model, event.code) for event in ill.events()]
    assert ("degraded", MODEL, "neighbour") in told


def test_what_is_withdrawn_here_is_not_taken_from_a_neighbour_that_has_not_heard(
    site: tuple[AgentProcess, Siege, int], tmp_path: Path
) -> None:
    ill, siege, _ = site
    siege.fleet.withdraw(siege.current.version)
    withdrawal = siege.fleet.bundle(Assignment(model=MODEL))
    with broker_that_retains(tmp_path / "broker", siege.certificates, withdrawal) as port:
        ill.start(port)
        until((ill.data / "serving.json").exists)

        def answer() -> Any:
            status, values, headers = ask(ill)
            because = headers.get("mailboat-degraded-because")
            return (status, values, because) if because == "withdrawn" else None

        assert until(answer) == (200, [-1.0] * 4, "withdrawn")
        # The neighbour may have answered for a moment, before the withdrawal was heard of.
        notes = {f"nothing_to_serve:{MODEL}", f"degraded:{MODEL}:fallback-rule"}
        until(lambda: notes <= set(ill.report().get("notes", [])))

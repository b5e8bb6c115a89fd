"""A real agent process, killed with SIGKILL: what it had accepted stands, whoever repeats what."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_process import AgentProcess, broker_that_retains, until
from attack_siege import FACTOR, SERVED, Siege, Stronghold, served
from mailboat_agent.trust.trust_store import TrustStore

# In `make test-all` and `pytest tests/attacks`; the quick suite tests each defence in its own room.
pytestmark = pytest.mark.slow


@pytest.fixture
def fortress(stronghold: Stronghold, tmp_path: Path) -> Iterator[tuple[AgentProcess, Siege]]:
    """A process on a copy of the installed device, and whose fleet it is."""
    siege = stronghold.besiege(tmp_path / "device")
    with served(stronghold.certificates, siege.fleet) as server:
        agent = AgentProcess(
            tmp_path / "device", stronghold.certificates, siege.fleet.factory_root, server.url
        )
        try:
            yield agent, siege
        finally:
            agent.kill()
    shutil.rmtree(agent.data)


def newest(agent: AgentProcess) -> tuple[int, int]:
    """The counter and the version of the timestamp that it says it has accepted."""
    report = agent.report()
    return report.get("manifest_counter", 0), report.get("trust_versions", {}).get("timestamp", 0)


def test_rollback_by_yesterdays_broker_after_the_process_was_killed(
    fortress: tuple[AgentProcess, Siege], tmp_path: Path
) -> None:
    agent, siege = fortress
    yesterday = siege.fleet.current(siege.current)
    siege.fleet.resign()
    today = siege.fleet.current(siege.current)
    with broker_that_retains(tmp_path / "today", siege.certificates, today) as port:
        agent.start(port)
        accepted = siege.fleet.read(today).counter
        until(lambda: newest(agent)[0] == accepted)
        before = newest(agent)
        agent.kill()

    with broker_that_retains(tmp_path / "yesterday", siege.certificates, yesterday) as port:
        agent.start(port)
        until(lambda: "A manifest was not taken" in agent.log())
        until(lambda: newest(agent) == before)
        assert agent.infer([0, 1, 2, 3]) == [FACTOR * x + 1 for x in range(4)]
        (model,) = agent.report()["models"]
        assert model["serving_version"] == SERVED
        agent.kill()
    told = [event.code for event in agent.events()]
    assert told.count("E-ROLLBACK") == 1


def test_rollback_by_killing_the_process_while_it_accepts(
    fortress: tuple[AgentProcess, Siege], tmp_path: Path
) -> None:
    """Whatever instant it is: the old set or the new one, and never back from the new one."""
    agent, siege = fortress
    yesterday = siege.fleet.current(siege.current)
    for kill in range(3):
        siege.fleet.resign()
        today = siege.fleet.current(siege.current)
        with broker_that_retains(tmp_path / f"today-{kill}", siege.certificates, today) as port:
            agent.start(port)
            highest = agent.data / "trust" / "highest.json"
            held = highest.stat().st_mtime_ns
            until(lambda: highest.stat().st_mtime_ns != held)  # noqa: B023 - called at once
            agent.kill()
    trust = TrustStore(agent.data, siege.fleet.factory_root)
    reached = trust.view().versions()
    with broker_that_retains(tmp_path / "yesterday", siege.certificates, yesterday) as port:
        agent.start(port)
        until(lambda: "A manifest was not taken" in agent.log())
        # It reports the roles of its models as well.
        until(lambda: reached.items() <= agent.report().get("trust_versions", {}).items())
        agent.kill()
    assert trust.view().versions() == reached
    assert "E-ROLLBACK" in [event.code for event in agent.events()]

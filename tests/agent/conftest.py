"""A fleet with real models and a device of it, for tests that turn the agent's loop."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_box import AgentBox, Play, Story, played
from model_fleet import ArtifactServer, Certificates, ModelFleet


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="session")
def first_fleet(tmp_path_factory: pytest.TempPathFactory) -> ModelFleet:
    """Keys and the ceremony once for all tests; no test signs with it."""
    return ModelFleet(tmp_path_factory.mktemp("fleet") / "ceremony")


@pytest.fixture
def fleet(first_fleet: ModelFleet) -> ModelFleet:
    return first_fleet.copied()


@pytest.fixture
def server(certificates: Certificates, fleet: ModelFleet) -> Iterator[ArtifactServer]:
    server = ArtifactServer(certificates, fleet.artifacts)
    yield server
    server.close()


@pytest.fixture
def play(
    tmp_path: Path, fleet: ModelFleet, server: ArtifactServer, certificates: Certificates
) -> Play:
    """Runs a story on a fresh device and leaves nothing behind."""

    def run(story: Story) -> AgentBox:
        return played(story, tmp_path / "data", fleet, server, certificates)

    return run

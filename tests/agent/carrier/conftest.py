"""A device without a network, and a stick."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from islands import Island, Story
from model_fleet import ArtifactServer, Certificates, ModelFleet


@pytest.fixture(scope="package")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="package")
def first_fleet(tmp_path_factory: pytest.TempPathFactory) -> ModelFleet:
    """Keys and the ceremony once for all tests."""
    return ModelFleet(tmp_path_factory.mktemp("fleet") / "ceremony")


@pytest.fixture
def fleet(first_fleet: ModelFleet) -> ModelFleet:
    return first_fleet.copied()


@pytest.fixture
def empty_server(certificates: Certificates) -> Iterator[ArtifactServer]:
    server = ArtifactServer(certificates, {})
    yield server
    server.close()


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    directory = tmp_path / "data"
    directory.mkdir()
    return directory


@pytest.fixture
def play(
    data_dir: Path, fleet: ModelFleet, empty_server: ArtifactServer, certificates: Certificates
) -> Callable[[Story], None]:
    """Runs a story on an island."""

    def run(story: Story) -> None:
        async def play() -> None:
            island = Island(data_dir, fleet, empty_server, certificates)
            try:
                await story(island)
            finally:
                await island.stop()

        asyncio.run(play())

    return run

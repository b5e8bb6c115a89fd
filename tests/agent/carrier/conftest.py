"""A device without a network, and a stick."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from islands import Island, Story
from model_fleet import ArtifactServer, Certificates, ModelFleet


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

from collections.abc import Iterator
from pathlib import Path

import pytest

from mailboat_controller.artifacts.artifact_store import ArtifactStore
from mailboat_controller.artifacts.opening import open_store
from mailboat_controller.artifacts.settings import ArtifactSettings
from released_files import Shop, shop_in
from s3_server import S3Server, s3_server


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(params=["directory", pytest.param("s3", marks=pytest.mark.slow)])
def settings(request: pytest.FixtureRequest) -> ArtifactSettings:
    """Of both stores, one after the other."""
    if request.param == "directory":
        return ArtifactSettings()
    server: S3Server = request.getfixturevalue("s3")
    return server.settings()


@pytest.fixture
def artifacts(settings: ArtifactSettings, tmp_path: Path) -> ArtifactStore:
    return open_store(settings, tmp_path / "artifacts")


@pytest.fixture
def shop(tmp_path: Path, artifacts: ArtifactStore, settings: ArtifactSettings) -> Iterator[Shop]:
    shop = shop_in(tmp_path, artifacts, settings)
    yield shop
    shop.store.close()


@pytest.fixture
def corner_shop(tmp_path: Path) -> Iterator[Shop]:
    """On this disk alone, for what does not differ between stores."""
    settings = ArtifactSettings()
    shop = shop_in(tmp_path, open_store(settings, tmp_path / "artifacts"), settings)
    yield shop
    shop.store.close()

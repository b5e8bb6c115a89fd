"""One controller for all of them, each with sets of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from command_line import forget_settings
from running_api import RunningApi, running_api


@pytest.fixture(scope="package")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    with running_api(tmp_path_factory.mktemp("controller")) as api:
        for name in ("dev-1", "dev-2", "dev-3"):
            assert api.enrol(name).status == 201
        yield api


@pytest.fixture
def as_alice(api: RunningApi, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    forget_settings(monkeypatch, tmp_path)
    monkeypatch.setenv("MAILBOAT_CONNECTION", str(api.connection_file("alice")))

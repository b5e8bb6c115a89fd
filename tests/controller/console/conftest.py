from collections.abc import Iterator

import pytest

from console_visitor import Browser
from running_api import RunningApi, running_api


@pytest.fixture(scope="session")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    """One controller for all tests of pages: names of what a test makes are its own."""
    with running_api(tmp_path_factory.mktemp("console")) as api:
        yield api


@pytest.fixture(scope="session")
def operator(api: RunningApi) -> Browser:
    return Browser(api).log_in("alice")


@pytest.fixture(scope="session")
def viewer(api: RunningApi) -> Browser:
    return Browser(api).log_in("vera")

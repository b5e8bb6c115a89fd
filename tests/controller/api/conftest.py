from collections.abc import Iterator

import pytest

from running_api import RunningApi, running_api


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    with running_api(tmp_path_factory.mktemp("controller")) as api:
        yield api

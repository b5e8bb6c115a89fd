"""docs/api.md: every command of it is run as it stands, against a real controller."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from running_api import RunningApi, running_api

PAGE = Path(__file__).parents[2] / "docs" / "api.md"
BLOCKS = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
RUN_SECONDS_MAX = 120

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    with running_api(tmp_path_factory.mktemp("controller")) as api:
        token = api.kit(uses=3)["token"]
        for number in (1, 2, 3):
            assert api.enrol(f"dev-{number}", token=token).status == 201
        yield api


def run(api: RunningApi, block: str) -> str:
    script = block.replace("https://127.0.0.1:8443", api.url)
    done = subprocess.run(
        ["bash", "-eu", "-c", script],
        cwd=api.connection_file("alice").parent,
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS_MAX,
        check=False,
    )
    assert done.returncode == 0, (script, done.stdout, done.stderr)
    return done.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")
def test_every_command_of_the_page_does_what_it_says(api: RunningApi) -> None:
    who, pages, narrowed, once, matched, refused = (run(api, block) for block in BLOCKS)

    assert '"fleet":"demo"' in who.replace(" ", "")
    assert '"name":"alice"' in who
    assert [name in pages for name in ("dev-1", "dev-2", "dev-3")] == [True] * 3
    assert pages.count('"enrolment_number"') == 3
    assert "dev-3" in narrowed
    assert "device.enrol" in narrowed
    assert once[: len(once) // 2] == once[len(once) // 2 :] != ""
    assert '"changed":false' in matched
    assert '"code":"E-NOT-FOUND"' in refused
    assert len(holds(api)) == 1


def holds(api: RunningApi) -> list[object]:
    listed = api.ask("GET", "/v1/audit?action=device.hold", by="alice").json
    return list(listed)

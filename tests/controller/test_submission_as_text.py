"""`mosquitto_rr` sends text only, so a submission is taken in base64 as well."""

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from controller_core import Core, plan


@pytest.fixture
def core(tmp_path: Path) -> Iterator[Core]:
    core = Core(tmp_path)
    core.fleet.enrol("dev-1")
    yield core
    core.store.close()


def test_a_submission_in_base64_is_the_same_submission(core: Core) -> None:
    core.trust.release("1.0.0", plan("first"))
    content = core.submission("release-vad", "approval-vad")

    as_text = core.admission.submit(base64.encodebytes(content), "ci:build", core.now)
    as_bytes = core.admission.submit(content, "ci:build", core.now)

    assert as_text.status == "accepted"
    assert as_bytes == as_text

"""README.md and both halves of the quick start, every command as written, in an empty place."""

import re
import shutil
from pathlib import Path

import pytest

from page_walk import REPOSITORY, walk

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(shutil.which("mosquitto") is None, reason="mosquitto is not installed"),
    pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed"),
]

# Lines that are not run here, and why.
NOT_IN_README = {
    "make demo": "the demo has tests of its own, and the checks of every change run it",
    "make test": "this is it",
    "make setup": "it made the environment that this test runs in",
}
NOT_IN_QUICK_START = {
    "git clone https://git.example/mailboat && cd mailboat": "this is the checkout",
    "make setup": "it made the environment that this test runs in",
}


def status(device: str, words: str) -> str:
    return f"mailboat-agent status --config {device}/agent.toml | grep -q '{words}'"


def rollout(name: str, words: str) -> str:
    return f"mailboat rollout status {name} | grep -q '{words}'"


ON_PROBATION = "on probation"


def test_five_minutes(tmp_path: Path) -> None:
    done = walk(
        REPOSITORY / "README.md",
        place=tmp_path,
        without=NOT_IN_README,
        states=[status("kiosk-1", ON_PROBATION), rollout("heat-1-0-0", "completed")],
    )

    assert (done.code, done.failed) == (0, ()), done.said[-3000:]
    assert re.search(r"phase\s+completed", done.said)
    assert re.search(r"heat +runs 1\.0\.0", done.said)


def test_the_quick_start(tmp_path: Path) -> None:
    both = "mailboat get devices -l presence=online -o name | grep -c kiosk- | grep -q 2"
    second = f"{rollout('{}', 'wave 2 of 2')} && {status('kiosk-2', ON_PROBATION)}"
    done = walk(
        REPOSITORY / "docs" / "quickstart.md",
        REPOSITORY / "docs" / "quickstart-2.md",
        place=tmp_path,
        without=NOT_IN_QUICK_START,
        states=[
            both,
            status("kiosk-1", ON_PROBATION),
            second.format("heat-1-0-0"),
            rollout("heat-1-0-0", "completed"),
            rollout("heat-1-1-0", "halted"),
            status("kiosk-2", "controller  connected"),
            status("kiosk-1", f"runs 1.3.0.*{ON_PROBATION}"),
            second.format("heat-1-3-0"),
            rollout("heat-1-3-0", "completed"),
            "mailboat drill status kiosk-2 | grep -q passed",
            status("kiosk-2", "runs 1.0.0"),
            "mailboat-agent config --config kiosk-1/agent.toml | grep -q volume",
            status("kiosk-1", "nothing runs"),
            status("kiosk-1", ON_PROBATION),
            second.format("heat-again"),
            rollout("heat-again", "completed"),
            "mailboat get devices -l presence=offline -o name | grep -q kiosk-2",
        ],
    )

    told = done.said
    # The fleet differs from the checkout until that is applied.
    assert (done.code, done.failed) == (0, ("3 mailboat diff -f fleet/",)), told[-3000:]
    assert re.search(r"because\s+failed on kiosk-1: 16 of 16 golden samples fail", told)
    assert "is not served now" in told
    assert "controller  not connected; it works on without" in told

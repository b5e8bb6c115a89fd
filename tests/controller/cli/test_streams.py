"""Streams that are closed, full, or of a narrow encoding, given by a real shell."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mailboat_controller import api_paths
from mailboat_schemas.errors import NotFound

COMMANDS = Path(sys.executable).parent
SECONDS_MAX = 120


def shell(line: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    path = f"{COMMANDS}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-c", line],
        env=os.environ | {"PATH": path} | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS_MAX,
    )


def test_an_error_that_nobody_hears_does_not_come_out_as_an_answer() -> None:
    done = shell("mailboat help E-NO-SUCH -o json 2>&-")

    assert (done.returncode, done.stdout) == (4, "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("mailboat help E-REBASE >&-", 0),
        ("mailboat help E-NO-SUCH 2>/dev/full", 4),
        ("mailboat help E-REBASE >/dev/full", 1),
        ("mailboat context list <&- >&- 2>&-", 0),
        ("mailboat-agent help E-NO-SUCH 2>&-", 1),
        ("mailboat-agent help E-REBASE >&-", 0),
    ],
)
def test_a_closed_or_full_stream_changes_no_exit_code(line: str, code: int, tmp_path: Path) -> None:
    done = shell(line, XDG_CONFIG_HOME=str(tmp_path))

    assert done.returncode == code
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("command", ["mailboat", "mailboat-agent"])
def test_nobody_who_reads_on_is_no_reason_for_a_traceback(command: str) -> None:
    done = shell(f"{command} help E-REBASE | true; echo ${{PIPESTATUS[0]}}")

    assert done.stdout in ("0\n", "1\n")  # it may have ended before `true` did
    assert done.stderr == ""


@pytest.mark.slow
def test_a_terminal_without_our_signs_gets_others() -> None:
    code = (
        "from mailboat_controller.cli import streams; streams.prepare();"
        "print('\u25b6 vad'); print('\u25b6')"
    )
    done = shell(f'{sys.executable} -c "{code}"', PYTHONIOENCODING="ascii")

    assert (done.returncode, done.stdout) == (0, "? vad\n?\n")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/../b", "a?b", "a#b", "a%2fb", "a b", "a\nb", "\u202e", "a;b"]
)
def test_an_address_takes_no_part_that_is_no_name(name: str) -> None:
    with pytest.raises(NotFound):
        api_paths.checked(f"/v1/devices/{name}")

    for path in (
        "/metrics",
        "/v1/deltas/vad/1.0.0/1.1.0-rc.1/build",
        "/v1/documents/config/fleet/-",
    ):
        assert api_paths.checked(path) == path

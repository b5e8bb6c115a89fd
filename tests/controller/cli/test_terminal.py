"""Commands on a real terminal and in real pipes, against a real controller."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pseudo_terminal import PATIENCE_SECONDS, on_terminal
from running_api import RunningApi, running_api

pytestmark = pytest.mark.slow

MAILBOAT = Path(sys.executable).with_name("mailboat")


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    with running_api(tmp_path_factory.mktemp("controller")) as api:
        assert api.enrol("dev-1").status == 201
        order = {"name": "harbour", "broker_host": "broker.harbour.example"}
        assert api.ask("POST", "/v1/sites", by="alice", body=order).status == 201
        yield api


@pytest.fixture
def alice(api: RunningApi, tmp_path: Path) -> dict[str, str]:
    return {
        "MAILBOAT_CONNECTION": str(api.connection_file("alice")),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
    }


def started(words: list[str], alice: dict[str, str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [MAILBOAT, *words], stdout=subprocess.PIPE, text=True, env=os.environ | alice
    )


class TestWatch:
    def test_redraws_in_place_and_leaves_the_last_answer_behind(
        self, alice: dict[str, str]
    ) -> None:
        with on_terminal(["site", "list", "--watch", "--every", "0.5"], alice) as terminal:
            terminal.until("Ctrl-C ends")
            terminal.until("harbour")
            terminal.press("\x03")
            code = terminal.end()

        assert code == 130
        assert "\x1b[?1049h" in terminal.drawn  # another screen, and back
        assert "harbour" in terminal.drawn.rpartition("\x1b[?1049l")[2]
        assert "Traceback" not in terminal.text

    def test_in_a_pipe_is_one_document_a_line_for_each_change(
        self, api: RunningApi, alice: dict[str, str]
    ) -> None:
        process = started(["site", "list", "--watch", "--every", "0.5"], alice)
        assert process.stdout is not None
        try:
            before = json.loads(process.stdout.readline())
            order = {"name": "depot", "broker_host": "broker.depot.example"}
            assert api.ask("POST", "/v1/sites", by="alice", body=order).status == 201
            names: set[str] = set()
            while "depot" not in names:
                names = {row["name"] for row in json.loads(process.stdout.readline())}
            process.send_signal(signal.SIGINT)
            code = process.wait(PATIENCE_SECONDS)
        finally:
            process.kill()
            process.stdout.close()

        assert "harbour" in {row["name"] for row in before}
        assert names == {"depot", *(row["name"] for row in before)}
        assert code == 130

    def test_ends_when_nobody_reads_any_more(self, alice: dict[str, str]) -> None:
        process = started(["class", "list", "--watch", "--every", "0.5"], alice)
        assert process.stdout is not None
        try:
            process.stdout.readline()
            process.stdout.close()

            assert process.wait(PATIENCE_SECONDS) == 1
        finally:
            process.kill()


class TestTop:
    def test_draws_the_fleet_opens_what_is_chosen_and_ends_with_q(
        self, alice: dict[str, str]
    ) -> None:
        with on_terminal(["top", "--every", "0.5"], alice) as terminal:
            before = terminal.settings()
            terminal.until("SITES")
            terminal.until("enter look at it")
            terminal.press("\x1b[B")
            terminal.press("q")
            code = terminal.end()

            assert (code, terminal.settings()) == (0, before)
        assert "Traceback" not in terminal.text

    def test_that_cannot_draw_looks_once(self, alice: dict[str, str]) -> None:
        with on_terminal(["top"], alice | {"TERM": "dumb"}) as terminal:
            code = terminal.end()

        assert code == 0
        assert "SITES" in terminal.text
        assert "\x1b" not in terminal.drawn


def test_colour_is_left_out_where_nobody_wants_it(alice: dict[str, str]) -> None:
    with on_terminal(["site", "list"], alice) as plain:
        assert plain.end() == 0
    with on_terminal(["site", "list"], alice | {"NO_COLOR": "1"}) as bare:
        assert bare.end() == 0
    with on_terminal(["site", "list"], alice | {"TERM": "dumb"}) as dumb:
        assert dumb.end() == 0

    assert "\x1b[1m" in plain.drawn
    assert "\x1b[3" not in bare.drawn  # bold is no colour
    assert "\x1b" not in dumb.drawn
    assert plain.text == dumb.text


def test_a_table_is_as_wide_as_the_terminal_or_as_columns_says(alice: dict[str, str]) -> None:
    with on_terminal(["site", "list"], alice, columns=60) as narrow:
        narrow.end()
    with on_terminal(["site", "list"], alice | {"COLUMNS": "50"}, columns=200) as told:
        told.end()

    assert max(len(line.rstrip()) for line in narrow.text.splitlines()) <= 60
    assert max(len(line.rstrip()) for line in told.text.splitlines()) <= 50


def test_long_work_has_a_bar_on_a_terminal_and_none_in_a_pipe(tmp_path: Path) -> None:
    code = (
        "import time\n"
        "from mailboat_controller.cli.progress import progress\n"
        "with progress('copying', shown=True, total_rows=4) as advance:\n"
        "    for _ in range(4):\n"
        "        advance(1)\n"
        "        time.sleep(0.2)\n"
        "print('done')\n"
    )
    with on_terminal(["-c", code], {}, program=[sys.executable]) as terminal:
        assert terminal.end() == 0
    piped = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=tmp_path
    )

    assert "copying" in terminal.text
    assert (piped.stdout, piped.stderr) == ("done\n", "")


def test_an_error_on_a_terminal_names_the_page_about_it(alice: dict[str, str]) -> None:
    with on_terminal(["device", "show", "nobody"], alice) as terminal:
        code = terminal.end()

    assert code == 4
    assert "more: mailboat help E-NOT-FOUND" in terminal.text


def test_a_controller_that_is_gone_ends_with_nine(api: RunningApi, tmp_path: Path) -> None:
    away = tmp_path / "connection.toml"
    here = api.connection_file("alice")
    text = here.read_text().replace(api.url, "https://127.0.0.1:1")
    away.write_text(text)
    for name in ("ca.pem", "token"):
        (tmp_path / name).write_bytes((here.parent / name).read_bytes())
        (tmp_path / name).chmod(0o600)

    done = subprocess.run(
        [MAILBOAT, "rollout", "list", "--connection", away, "-o", "json"],
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )

    assert done.returncode == 9
    assert json.loads(done.stderr)["code"] == "E-SERVER-UNAVAILABLE"

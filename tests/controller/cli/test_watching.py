"""`--watch` without a terminal: what comes, what does not, and what ends it."""

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest
import typer
from rich.console import Console
from rich.text import Text

from mailboat_controller.cli import forms, watching
from mailboat_schemas.errors import NotFound, ServerUnavailable

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def asking(*turns: str | Exception) -> Callable[[], None]:
    """A command that prints or raises these, one a turn, and ends with 7 after the last."""
    waiting: Iterator[str | Exception] = iter(turns)

    def ask() -> None:
        turn = next(waiting, None)
        if turn is None:
            raise typer.Exit(7)
        if isinstance(turn, Exception):
            raise turn
        print(turn)

    return ask


def watched(*turns: str | Exception, form: str = "json") -> int:
    with forms.spoken(form), pytest.raises(typer.Exit) as ended:
        watching.watch(asking(*turns), "title", every_seconds=0, now=lambda: NOON)
    return int(ended.value.exit_code)


def test_an_answer_that_stays_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    document = json.dumps({"a": 1}, indent=2)

    assert watched(document, document, json.dumps({"a": 2}, indent=2)) == 7

    assert capsys.readouterr().out == '{"a": 1}\n{"a": 2}\n'


def test_a_controller_that_is_away_ends_no_watch(capsys: pytest.CaptureFixture[str]) -> None:
    away = ServerUnavailable("It cannot be reached.", next_step="wait.")

    assert watched('{"a": 1}', away, away, '{"a": 1}', '{"a": 2}') == 7

    said = capsys.readouterr()
    assert said.out == '{"a": 1}\n{"a": 2}\n'
    assert said.err == "old since 12:00:00: It cannot be reached.\n"


def test_what_no_second_look_would_mend_ends_it() -> None:
    gone = NotFound("There is no rollout a.", next_step="list them.")

    with pytest.raises(NotFound):
        watching.watch(asking("{}", gone), "title", every_seconds=0, now=lambda: NOON)


def test_yaml_comes_as_documents(capsys: pytest.CaptureFixture[str]) -> None:
    watched("a: 1", "a: 2", form="yaml")

    assert capsys.readouterr().out == "---\na: 1\n---\na: 2\n"


def test_ctrl_c_ends_it_with_the_code_of_an_interrupt() -> None:
    def ask() -> None:
        raise KeyboardInterrupt

    with pytest.raises(typer.Exit) as ended:
        watching.watch(ask, "title", every_seconds=0, now=lambda: NOON)

    assert ended.value.exit_code == 130


def test_what_is_higher_than_the_window_says_how_much_is_left_out() -> None:
    console = Console(width=80, height=10)
    page = Text("\n".join(f"line {number}" for number in range(50)))

    lines = watching.cropped(page, console, told=True).plain.splitlines()

    assert len(lines) <= 10 - watching.HEAD_LINES
    assert lines[0] == "line 0"
    assert "more lines" in lines[-1]
    assert watching.cropped(Text("one\n\n"), console, told=False).plain == "one"

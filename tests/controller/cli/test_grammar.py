"""One grammar for every command: what the command line takes, read from the command line itself."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mailboat_controller.cli import command_line, forms, grammar, output

CLI_PAGE = Path(__file__).parents[3] / "docs" / "cli.md"
FORMS = {each.value for each in forms.Form}


def walk(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        yield " ".join(path), command
        return
    for name, each in command.commands.items():
        yield from walk(each, (*path, name))


COMMANDS = dict(walk(command_line()))


def option(command: Any, name: str) -> Any:
    return next((each for each in command.params if each.name == name), None)


def verb(path: str) -> str:
    return "get" if path.startswith("get ") else path.rsplit(maxsplit=1)[-1]


def test_every_command_that_lists_or_shows_has_every_form() -> None:
    reading = [path for path in COMMANDS if verb(path) in grammar.READING]

    assert {"device list", "rollout status", "get devices", "timeline"} <= set(reading)
    for path in reading:
        form = option(COMMANDS[path], "form")
        assert form is not None, f"mailboat {path} lacks -o"
        assert {each.value for each in form.type_descriptor.annotation} == FORMS, path


def test_o_is_the_form_wherever_it_stands() -> None:
    for path, command in COMMANDS.items():
        for each in command.params:
            if "-o" in each.opts:
                assert each.name == "form", f"mailboat {path}: -o is {each.name}"


def test_json_is_an_alias_of_a_form_everywhere() -> None:
    for path, command in COMMANDS.items():
        json = option(command, "as_json")
        assert (json is None) == (option(command, "form") is None), path
        assert json is None or json.opts == ["--json"], path


def test_whatever_asks_a_controller_takes_a_context() -> None:
    for path, command in COMMANDS.items():
        asks = option(command, "connection") is not None
        assert (option(command, "context") is not None) == asks, path


def test_whatever_lists_or_shows_at_a_controller_can_be_watched() -> None:
    for path, command in COMMANDS.items():
        can = (
            verb(path) in grammar.READING
            and option(command, "connection") is not None
            and option(command, "as_json") is not None
        )
        assert (option(command, "watch") is not None) == can, path


def test_the_help_groups_every_noun() -> None:
    grouped = {name for names in grammar.PANELS.values() for name in names}

    assert grouped == set(command_line().commands)


def test_a_selector_is_called_the_same_everywhere() -> None:
    found = [
        (path, each.opts)
        for path, command in COMMANDS.items()
        for each in command.params
        if "--selector" in each.opts or "-l" in each.opts
    ]

    assert {path for path, _ in found} >= {
        "device list",
        "get devices",
        "device hold",
        "drill start",
    }
    assert {tuple(opts) for _, opts in found} == {("--selector", "-l")}


def test_each_short_option_means_one_thing() -> None:
    meanings: dict[str, set[str]] = {}
    for command in COMMANDS.values():
        for each in command.params:
            long = next((name for name in each.opts if name.startswith("--")), "")
            for name in each.opts:
                if len(name) == 2:
                    meanings.setdefault(name, set()).add(long)

    # `model build` has an --output of its own, and -o alone for the form.
    assert meanings.pop("-o") <= {"--output", ""}
    # A log that is followed, as tail does; everywhere else it is a file.
    assert meanings.pop("-f", set()) <= {"--file", "--follow"}
    assert {name: len(longs) for name, longs in meanings.items()} == dict.fromkeys(meanings, 1)


def test_every_command_and_every_option_says_what_it_is() -> None:
    for path, command in COMMANDS.items():
        assert command.help, path
        for each in command.params:
            if each.name in ("branch", "level"):
                continue  # their names say it
            assert each.help, f"mailboat {path}: {each.opts}"


def test_the_help_lists_the_exit_codes_that_commands_end_with() -> None:
    for name, code in vars(output).items():
        if name.startswith("EXIT_") and isinstance(code, int):
            assert f" {code} " in output.EXIT_CODES_HELP, name


def test_the_exit_codes_in_the_documents_are_those_of_the_help() -> None:
    section = CLI_PAGE.read_text().split("\n## Exit codes\n", 1)[1].split("\n## ", 1)[0]
    told = re.findall(r"^\| (\d+) \| ([^|]+?) \|", section, re.MULTILINE)

    assert [f"{code} {meaning}" for code, meaning in told] == re.findall(
        r"(\d+ [^,.]+)", output.EXIT_CODES_HELP
    )


@pytest.mark.parametrize(
    ("words", "form"),
    [
        (["device", "list"], "table"),
        (["device", "list", "--json"], "json"),
        (["device", "list", "-o", "yaml"], "yaml"),
        (["device", "list", "-oname"], "name"),
        (["device", "list", "--output=wide"], "wide"),
        (["device", "list", "-o"], "table"),
    ],
)
def test_an_error_comes_in_the_form_that_was_asked_for(words: list[str], form: str) -> None:
    assert forms.asked_for(words) == form

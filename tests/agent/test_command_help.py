"""What a technician asks the device's command of itself: codes, and words for the tab key."""

import json
import re
from collections.abc import Iterator

import pytest

from mailboat_agent.cli import EXIT_FAILURE, EXIT_INTERRUPTED, EXIT_OK, _parser, main
from mailboat_agent.completion_script import SHELLS, script
from mailboat_agent.help_command import explain_code
from mailboat_schemas.errors import NotFound


def test_a_code_is_explained_without_a_network(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", "E-REBASE"]) == EXIT_OK
    said = capsys.readouterr().out
    assert main(["help", "rebase", "--json"]) == EXIT_OK
    (row,) = json.loads(capsys.readouterr().out)

    assert "next step" in said
    assert row["code"] == "E-REBASE"
    assert row["means"] in " ".join(said.split())


def test_a_code_that_does_not_exist_names_near_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", "E-REBAES\x1b[2J"]) == EXIT_FAILURE
    assert "\x1b" not in capsys.readouterr().err

    with pytest.raises(NotFound, match="Did you mean E-REBASE"):
        explain_code("E-REBAES", as_json=False)


def test_the_version_names_the_wire_and_the_runtime(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])

    assert ended.value.code == EXIT_OK
    said = capsys.readouterr().out
    assert re.fullmatch(r"mailboat-agent \d+\.\S+ \(mb/1, onnxruntime \d\S+, Python 3\S+\)\n", said)


def commands(script_text: str) -> Iterator[tuple[str, set[str]]]:
    for path, words in re.findall(r'"([a-z -]*)"\) words="([^"]*)"', script_text):
        yield path, set(words.split())


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_has_every_command_and_option(shell: str) -> None:
    text = script(shell, _parser())

    for word in ("enroll", "install-service", "site-order", "query", "--encrypted"):
        found = word.removeprefix("--") if shell == "fish" else word
        assert re.search(rf"[ \"]{found}(?:[ \"]|$)", text, re.MULTILINE), word


def test_options_with_a_value_are_followed_by_files() -> None:
    text = script("bash", _parser())
    (valued,) = re.findall(r"^        (--\S+)\) return ;;$", text, re.MULTILINE)
    known = dict(commands(text))

    assert {"--config", "--kit", "--data-dir"} <= set(valued.split("|"))
    assert "--json" not in valued.split("|")
    assert known["busy"] >= {"on", "off", "status", "--json"}
    assert known["db"] >= {"tables", "query", "export"}


def test_ctrl_c_has_the_code_of_an_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_arguments: object, **_more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.print", interrupted)

    assert main(["completion", "bash"]) == EXIT_INTERRUPTED

"""Nobody signs unseen: what is shown before a question, and to whom."""

import pytest

from mailboat_controller.cli import signing
from mailboat_schemas.errors import ConfigurationInvalid

LINES = ["threshold 1 -> 2", "a\x1b[2Jb"]


@pytest.mark.parametrize("as_json", [False, True])
def test_whoever_is_asked_has_seen_it_and_no_answer_is_mixed_with_it(
    as_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigurationInvalid, match="nobody to ask"):
        signing.show_and_ask(LINES, "Sign?", yes=False, as_json=as_json)

    said = capsys.readouterr()
    assert said.err.splitlines() == ["threshold 1 -> 2", "a [2Jb"]
    assert said.out == ""


def test_a_program_that_has_read_it_is_spared_it(capsys: pytest.CaptureFixture[str]) -> None:
    signing.show_and_ask(LINES, "Sign?", yes=True, as_json=True)
    assert capsys.readouterr() == ("", "")

    signing.show_and_ask(LINES, "Sign?", yes=True, as_json=False)
    assert "threshold" in capsys.readouterr().err

"""docs/sizing.md: every figure is one that a page of results has, and its command is there."""

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
DOCS = REPOSITORY / "docs"
ROW = re.compile(r"^\| (.+?) \| (.+?) \| `(.+?)` \| \[[^\]]+\]\(([\w.-]+)(?:#[\w-]+)?\) \|$", re.M)
ROWS = ROW.findall((DOCS / "sizing.md").read_text())
NUMBER = re.compile(r"\d[\d.,]*(?:e-\d+)?(?<![.,])")


def test_the_tables_are_read() -> None:
    assert len(ROWS) > 12


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:40])
def test_every_figure_stands_in_the_results_it_is_taken_from(row: tuple[str, ...]) -> None:
    what, figure, _, source = row
    text = (DOCS / source).read_text()
    if found := NUMBER.search(figure):
        assert re.search(rf"(?<![\d.]){re.escape(found[0])}(?![\d])", text), (what, found[0])


@pytest.mark.parametrize("command", sorted({row[2] for row in ROWS}))
def test_every_command_runs_something_that_is_there(command: str) -> None:
    name = command.split()[2] if " -m " in command else command.split()[1]
    path = REPOSITORY / (name if name.endswith(".py") else name.replace(".", "/"))
    files = (path, path / "__main__.py", path.with_name(f"{path.name}.py"))
    assert any(each.is_file() for each in files), command

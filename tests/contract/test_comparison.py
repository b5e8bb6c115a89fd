"""docs/comparison.md: every promised row once, and behind every yes a document and a test."""

import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs" / "comparison.md"
# The letters of the tables, and how many rows each has.
ROWS = {"A": 30, "B": 15, "C": 20, "D": 22, "E": 14, "F": 13, "G": 20, "H": 20}
STATE = re.compile(r"yes(?: \([^)]+\))?|(?:partly|missing) \([^)]+\)")
LINK = re.compile(r"\[([^\]]+)\]\(([^)]+)\)")
COLLECT_SECONDS_MAX = 600


def rows() -> list[tuple[str, str, str, str, str]]:
    """Of each row: id, what was promised, ours, the document, the tests."""
    found = []
    for line in re.findall(r"^\| [A-H]\d+ \|.*\|$", PAGE.read_text(), re.MULTILINE):
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        found.append((cells[0], cells[-4], cells[-3], cells[-2], cells[-1].strip("| ")))
    return found


@cache
def collected_in(path: Path) -> frozenset[str]:
    """Functions of the module, and of its classes, that pytest takes for tests."""
    return frozenset(
        re.findall(r"^(?:    )?(?:async )?def (test_\w+)\(", path.read_text(), re.MULTILINE)
    )


def test_every_row_is_there_once_and_in_order() -> None:
    assert [row[0] for row in rows()] == [
        f"{letter}{number + 1}" for letter, count in ROWS.items() for number in range(count)
    ]


def test_what_falls_short_says_what_is_missing() -> None:
    assert [row[0] for row in rows() if not STATE.fullmatch(row[2])] == []


def test_behind_every_yes_stand_a_document_and_a_test() -> None:
    bare = [
        number
        for number, _, ours, document, tests in rows()
        if not ours.startswith("missing") and not (LINK.search(document) and LINK.search(tests))
    ]
    assert bare == []


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_the_tests_it_names_are_collected(row: tuple[str, str, str, str, str]) -> None:
    for name, target in LINK.findall(row[4]):
        path = (PAGE.parent / target).resolve()
        area, _, function = name.partition("::")
        assert path.is_relative_to(REPOSITORY / "tests" / area)
        assert path.name.startswith("test_"), target
        assert f"test_{function}" in collected_in(path), name


@pytest.mark.slow
@pytest.mark.timeout(2 * COLLECT_SECONDS_MAX)
def test_pytest_itself_collects_every_test_it_names() -> None:
    """The look at the text above would take a function in a string, or in a module that breaks."""
    named = {
        (str((PAGE.parent / target).resolve().relative_to(REPOSITORY)), name.partition("::")[2])
        for row in rows()
        for name, target in LINK.findall(row[4])
    }
    files = sorted({path for path, _ in named})

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-n", "0", *files],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=COLLECT_SECONDS_MAX,
        check=False,
    )

    assert done.returncode == 0, done.stdout[-2000:]
    collected = {
        (path, re.sub(r"\[.*", "", rest).rpartition("::")[2])
        for path, _, rest in (line.partition("::") for line in done.stdout.splitlines())
    }
    assert len(files) > 50
    assert {each for each in named if (each[0], f"test_{each[1]}") not in collected} == set()


def test_the_count_at_the_top_is_true() -> None:
    states = [(row[2].split()[0], "v1" in row[1]) for row in rows()]

    def told(chosen: list[str]) -> tuple[str, ...]:
        return tuple(str(chosen.count(state)) for state in ("yes", "partly", "missing"))

    (line,) = re.findall(r"^Of (\d+) rows, (.*)$", PAGE.read_text(), re.MULTILINE)
    numbers = re.findall(r"\d+(?= yes| partly| missing)", line[1])

    assert line[0] == str(sum(ROWS.values()))
    assert tuple(numbers[:3]) == told([state for state, _ in states])
    assert tuple(numbers[3:]) == told([state for state, first in states if first])
    assert re.search(rf"Of the {sum(first for _, first in states)} promised", line[1])


def test_nothing_is_held_back_for_who_pays() -> None:
    """Row G14: one licence, an open one, and no code that asks for a key to a feature."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert project["license"] == "Apache-2.0"
    assert "Apache License" in (REPOSITORY / "LICENSE").read_text()[:200]
    asking = re.compile(r"licen[cs]e[_-]?key|entitlement|enterprise[_-]?only", re.IGNORECASE)
    assert [
        str(path)
        for package in ("agent", "controller", "schemas")
        for path in (REPOSITORY / package).rglob("*.py")
        if asking.search(path.read_text())
    ] == []

"""The list of attacks in docs/threat-model.md is the list of attacks that are carried out."""

import ast
import re
from pathlib import Path

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs"
ROW = re.compile(r"^\| `(\w+)` \| [^|]+ \| (?:`([\w-]+)`|–) \|$", re.MULTILINE)
SECTION = re.compile(r"^### .+\n\n`tests/attacks/(test_\w+\.py)`\n", re.MULTILINE)
ATTACKS_MIN = 40  # what was promised


def listed() -> dict[str, dict[str, str]]:
    """Of each test module: attack to code."""
    parts = SECTION.split((DOCS / "threat-model.md").read_text())[1:]
    return {
        module: dict(ROW.findall(text))
        for module, text in zip(parts[::2], parts[1::2], strict=True)
    }


def carried_out() -> dict[str, set[str]]:
    return {
        path.name: {
            node.name.removeprefix("test_")
            for node in ast.parse(path.read_text()).body
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            and node.name.startswith("test_")
        }
        for path in sorted(HERE.glob("test_*.py"))
        if path.name != Path(__file__).name
    }


def test_every_attack_that_is_listed_is_carried_out_and_the_other_way_round() -> None:
    assert {module: set(rows) for module, rows in listed().items()} == carried_out()


def test_there_are_as_many_as_were_promised() -> None:
    assert sum(len(names) for names in carried_out().values()) >= ATTACKS_MIN


def test_no_attack_is_listed_twice() -> None:
    names = [name for rows in carried_out().values() for name in rows]

    assert len(names) == len(set(names))


def test_every_code_is_one_that_is_explained() -> None:
    explained = set(re.findall(r"^\| `([^`]+)` \|", (DOCS / "errors.md").read_text(), re.MULTILINE))
    codes = {code for rows in listed().values() for code in rows.values() if code}

    assert codes - explained == set()


def test_a_code_in_the_list_is_one_that_its_test_looks_for() -> None:
    """Where a test names codes at all; some look at what the device or the disk is like."""
    for module, rows in listed().items():
        bodies = {
            node.name: ast.unparse(node)
            for node in ast.parse((HERE / module).read_text()).body
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }
        for name, code in rows.items():
            words = set(re.findall(r"'([\w-]+)'", bodies[f"test_{name}"]))
            named = {word for word in words if word.startswith("E-")}
            assert not named or code in words, f"{name}: {code} is not in {sorted(named)}"

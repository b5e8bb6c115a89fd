"""The list of attacks in docs/threat-model.md is the list of attacks that are carried out."""

import ast
import re
from pathlib import Path

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
DOCS = REPOSITORY / "docs"
ROW = re.compile(r"^\| `(\w+)` \| [^|]+ \| (?:`([\w-]+)`|–) \|$", re.MULTILINE)
SECTION = re.compile(r"^### .+\n\n`(tests/[\w/]+/test_\w+\.py)`\n", re.MULTILINE)
OURS = "tests/attacks/"
ATTACKS_MIN = 40  # what was promised


def listed() -> dict[str, dict[str, str]]:
    """Of each test module: attack to code."""
    parts = SECTION.split((DOCS / "threat-model.md").read_text())[1:]
    return {
        module: dict(ROW.findall(text))
        for module, text in zip(parts[::2], parts[1::2], strict=True)
    }


def functions_of(module: str) -> dict[str, str]:
    """Name, without ``test_``, and source."""
    return {
        node.name.removeprefix("test_"): ast.unparse(node)
        for node in ast.parse((REPOSITORY / module).read_text()).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
    }


def carried_out() -> dict[str, set[str]]:
    """Of each module that holds nothing but attacks."""
    return {
        f"{OURS}{path.name}": set(functions_of(f"{OURS}{path.name}"))
        for path in sorted(HERE.glob("test_*.py"))
        if path.name != Path(__file__).name
    }


def test_every_attack_that_is_listed_is_carried_out_and_the_other_way_round() -> None:
    ours = {module: set(rows) for module, rows in listed().items() if module.startswith(OURS)}

    assert ours == carried_out()


def test_every_attack_that_is_carried_out_elsewhere_is_there() -> None:
    missing = {
        f"{module}::{name}"
        for module, rows in listed().items()
        for name in rows.keys() - functions_of(module).keys()
    }

    assert missing == set()
    assert all(listed().values())  # a table that is not read as one holds nothing


def test_there_are_as_many_as_were_promised() -> None:
    assert sum(len(names) for names in carried_out().values()) >= ATTACKS_MIN


def test_no_attack_is_listed_twice() -> None:
    names = [name for rows in listed().values() for name in rows]

    assert len(names) == len(set(names))


def test_every_code_is_one_that_is_explained() -> None:
    explained = set(re.findall(r"^\| `([^`]+)` \|", (DOCS / "errors.md").read_text(), re.MULTILINE))
    codes = {code for rows in listed().values() for code in rows.values() if code}

    assert codes - explained == set()


def test_a_code_in_the_list_is_one_that_its_test_looks_for() -> None:
    """Where a test names codes at all; some look at what the device or the disk is like."""
    for module, rows in listed().items():
        bodies = functions_of(module)
        for name, code in rows.items():
            words = set(re.findall(r"'([\w-]+)'", bodies[name]))
            named = {word for word in words if word.startswith("E-")}
            assert not named or code in words, f"{name}: {code} is not in {sorted(named)}"

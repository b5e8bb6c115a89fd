"""Nothing is written into the audit log without a reason, by anybody."""

import ast
from pathlib import Path

import mailboat_controller

PACKAGE = Path(mailboat_controller.__file__).parent


def test_every_entry_says_why() -> None:
    """``audit.append`` takes none by default for tests alone; the program always says one."""
    without = []
    for path in sorted(PACKAGE.rglob("*.py")):
        source = path.read_text()
        if "audit.append(" not in source:
            continue
        for node in ast.walk(ast.parse(source)):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == "append"
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "audit"
            ):
                said = {each.arg: each.value for each in node.keywords}
                reason = said.get("reason")
                if reason is None or (isinstance(reason, ast.Constant) and not reason.value):
                    without.append(f"{path.relative_to(PACKAGE)}:{node.lineno}")
    assert without == []

"""`mailboat` as a person or a pipeline calls it, in this process."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mailboat_controller.cli.demo import run_here

SETTLED = (0, 2, 3)  # done, called wrongly (the parser speaks), differences found


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output is one JSON value and nothing else."""
        return json.loads(self.out)


def mailboat(*words: str | Path) -> Said:
    """What it said; whatever went wrong, it did so with a next step and without a traceback."""
    said = Said(*run_here([str(word) for word in words]))
    assert "Traceback" not in said.err
    if said.code not in SETTLED and not said.out:
        assert "next step:" in said.err
    return said


def forget_settings(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """Of whoever runs the tests: commands find no connection, key or file of theirs."""
    for name in ("CONNECTION", "CONTEXT", "KEY_PASSPHRASE", "KEY_PASSPHRASE_FILE", "CONFIG"):
        monkeypatch.delenv(f"MAILBOAT_{name}", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))

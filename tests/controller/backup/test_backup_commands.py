"""``mailboat backup`` and ``restore`` as somebody on the controller's machine runs them."""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mailboat_controller import cli, data_directory
from trust_fleet import TrustFleet

pytestmark = pytest.mark.slow


def test_a_backup_is_made_checked_and_restored_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*words: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mailboat", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    now = datetime.now(UTC)
    trust = TrustFleet(tmp_path / "ceremony", now=now).directory
    data_directory.create(tmp_path / "data", fleet="demo", trust=trust, now=now)
    backup, passphrase = tmp_path / "b.backup", tmp_path / "passphrase"
    passphrase.touch(mode=0o600)
    passphrase.write_text("a long passphrase\n")
    opened = ("--passphrase-file", passphrase)
    config = ("--config", tmp_path / "data" / "controller.toml")
    into = ("--data-dir", tmp_path / "new")

    code, made, _ = run("backup", "--out", backup, *opened, *config, "--json")
    assert (code, json.loads(made)["fleet"]) == (0, "demo")
    assert run("backup", "--out", backup, *opened, *config)[0] == 6
    assert run("restore", backup, *opened, "--check")[0] == 0
    assert run("restore", backup, *opened, *into)[0] == 2  # why?
    code, said, _ = run("restore", backup, *opened, *into, "--reason", "drill")
    assert (code, "mailboat serve" in said) == (0, True)
    assert run("restore", backup, *opened, *into, "--reason", "drill")[0] == 6

    passphrase.write_text("another passphrase")
    code, _, problem = run("restore", backup, *opened, "--check")
    assert (code, "E-BACKUP" in problem) == (1, True)

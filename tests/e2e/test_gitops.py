"""A loop in a process of its own keeps a real controller as a branch of signed commits says."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from command_line import forget_settings, mailboat
from mailboat_controller.demo.fleet import until
from running_controller import RunningController, running_controller
from signed_repository import MALLORY, SignedRepository

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
SECONDS_MAX = 240.0  # a busy machine; the loop looks every ten seconds

SITE = """\
apiVersion: mailboat/v1
kind: Site
metadata: {name: harbour}
spec: {broker_host: %s}
"""


def loop(origin: SignedRepository, connection: Path) -> subprocess.Popen[bytes]:
    program = "from mailboat_controller.cli import main; main()"
    words = ("gitops", "run", "--repository", str(origin.tree), "--path", "fleet/")
    more = ("--allowed-signers", str(origin.signers), "--interval", "10")
    state = ("--state", str(origin.directory / "state"), "--connection", str(connection))
    return subprocess.Popen(  # the installed command, in the interpreter that runs the tests
        [sys.executable, "-c", program, *words, *more, *state],
        env={**os.environ, "HOME": str(origin.directory)},
        stdout=subprocess.DEVNULL,
    )


def status(connection: Path) -> dict[str, Any]:
    rows = mailboat("gitops", "status", "--connection", connection, "--json").json
    return next((row for row in rows if row["set"] == "fleet"), {"state": None})


def host(controller: RunningController, connection: Path) -> str:
    said = mailboat("site", "show", "harbour", "--connection", connection, "--json")
    return str(json.loads(said.out)["broker_host"]) if said.code == 0 else ""


def test_a_branch_is_followed_drift_is_mended_and_a_stranger_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_settings(monkeypatch, tmp_path)
    origin = SignedRepository.make(tmp_path / "origin")
    origin.write("fleet/site.yaml", SITE % "one.example")
    first = origin.commit()
    with running_controller(tmp_path / "controller") as controller:
        alice = controller.person()
        process = loop(origin, alice)
        try:
            until("applied", lambda: status(alice)["state"] == "in-step", SECONDS_MAX)
            assert host(controller, alice) == "one.example"
            assert status(alice)["commit"] == first

            words = ("site", "change", "harbour", "--broker-host", "drift.example")
            assert mailboat(*words, "--connection", alice).code == 0
            until("mended", lambda: host(controller, alice) == "one.example", SECONDS_MAX)

            origin.write("fleet/site.yaml", SITE % "mallory.example")
            origin.commit(MALLORY)
            until("refused", lambda: status(alice)["state"] == "refused", SECONDS_MAX)
            assert host(controller, alice) == "one.example"
            assert status(alice)["commit"] == first

            last = origin.commit()
            until("taken", lambda: status(alice)["commit"] == last, SECONDS_MAX)
            assert host(controller, alice) == "mallory.example", "alice signed what it holds"
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(SECONDS_MAX) == 0

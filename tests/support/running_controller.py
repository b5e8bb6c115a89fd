"""The whole controller in a thread: its own mosquitto, TLS everywhere, real sockets and files."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

from enrolled_fleet import lay_database
from mailboat_controller import data_directory
from mailboat_controller.access.people import DAYS_DEFAULT, Role
from mailboat_controller.access.token_directory import issue_token
from mailboat_controller.authority.ceremony import Quorum
from mailboat_controller.config import ControllerSettings, load
from mailboat_controller.service import serve
from mailboat_controller.store import audit, classes, manifests, releases, rollouts
from mailboat_controller.store.engine import Store
from mailboat_schemas.documents.hardware_class import HardwareClass
from mailboat_schemas.enrolment import Kind
from trust_fleet import CLASS, FLEET, ONE, TrustFleet
from unused_port import unused_port

START_SECONDS_MAX = 60


@dataclass
class RunningController:
    """A data directory, and what is in its database while somebody serves it."""

    directory: Path
    approval: Quorum = ONE
    trust: TrustFleet = field(init=False)
    settings: ControllerSettings = field(init=False)

    def __post_init__(self) -> None:
        now = datetime.now(UTC)
        self.trust = TrustFleet(self.directory / "ceremony", now=now, approval=self.approval)
        lay_database(self.directory / "data")
        data_directory.create(
            self.directory / "data",
            fleet=FLEET,
            trust=self.trust.directory,
            now=now,
            listen_port=0,
            mqtt_port=unused_port(),
        )
        self.settings = load(self.directory / "data" / "controller.toml")
        self.store = Store(self.settings.store_url)
        document = {
            "apiVersion": "mailboat/v1",
            "kind": "HardwareClass",
            "metadata": {"name": CLASS},
            "spec": {"arch": "x86_64", "memory_budget": "1GiB", "disk_budget": "9GiB"},
        }
        with self.store.transaction() as tx:
            classes.put(tx, HardwareClass.model_validate(document), now)

    def connection(self, name: str = "build", kind: Kind = Kind.CI) -> Path:
        """A new credential's connection file; made once the ports are known."""
        out = self.directory / "connections" / name
        if not (out / "connection.toml").exists():
            now = datetime.now(UTC)
            data_directory.issue_credential(
                self.settings, kind, name, out, actor="local:test", now=now
            )
        return out / "connection.toml"

    def person(self, name: str = "alice", role: Role = Role.OPERATOR) -> Path:
        """A new token's connection file; made once the ports are known."""
        out = self.directory / "people" / name
        if not (out / "connection.toml").exists():
            now = datetime.now(UTC)
            issue_token(
                self.settings, name, role, out, days=DAYS_DEFAULT, actor="local:test", now=now
            )
        return out / "connection.toml"

    @property
    def mqtt_port(self) -> int:
        return int(json.loads(self.settings.serving_file.read_text())["mqtt_port"])

    def known(self) -> dict[str, Any]:
        """What a submission can change, to see whether one did."""
        with self.store.read() as tx:
            return {
                "releases": [row.version for row in releases.every(tx)],
                "rollouts": [row.rollout.name for row in rollouts.every(tx)],
                "manifests": {row.hardware_class: row.counter for row in manifests.every(tx)},
                "accepted": sum(row.action == "submission.accept" for row in audit.page(tx)),
            }


@contextmanager
def running_controller(directory: Path, *, approval: Quorum = ONE) -> Iterator[RunningController]:
    controller = RunningController(directory, approval)
    handles: dict[str, Any] = {}
    started = threading.Event()

    async def main() -> None:
        handles["loop"], handles["stop"] = asyncio.get_running_loop(), asyncio.Event()
        started.set()
        await serve(controller.settings, stop=handles["stop"])

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    try:
        assert started.wait(START_SECONDS_MAX)
        deadline = time.monotonic() + START_SECONDS_MAX
        while not controller.settings.serving_file.exists():
            assert thread.is_alive(), "the controller ended"
            assert time.monotonic() < deadline, "the controller does not serve"
            time.sleep(0.02)
        yield controller
    finally:
        handles["loop"].call_soon_threadsafe(handles["stop"].set)
        thread.join(START_SECONDS_MAX)
        controller.store.close()
        structlog.reset_defaults()
        assert not thread.is_alive()

"""A controller's core with releases of real files, and devices that report what they run."""

import hashlib
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from controller_core import EVERYBODY, Core, plan
from enrolled_fleet import EnrolledDevice
from mailboat_controller.delta_builds.builder import Builder
from mailboat_controller.delta_builds.room import DeltaRoom
from mailboat_controller.store import classes, deltas
from mailboat_controller.store.deltas import DeltaRow, State
from mailboat_schemas.deltas import Delta
from mailboat_schemas.documents.hardware_class import HardwareClass
from mailboat_schemas.events import EventKind
from mailboat_schemas.plan import PlanWave
from mailboat_schemas.reports import ModelPhase, ReportedModel
from trust_fleet import CLASS
from weights import fine_tuned, safetensors, weights

PILOT_WAVE = PlanWave(count_ppm=1, cap_ppm=1, pilots=("dev-0",))
BASE = safetensors(weights())
TUNED = safetensors(fine_tuned(weights()))
MEMORY_BUDGET = "256MiB"


@dataclass
class DeltaFleet:
    """``builder`` changes of how deltas are built are for tests of what goes wrong."""

    directory: Path
    builder_changes: dict[str, Any] = field(default_factory=dict)
    bases_max: int = 3

    def __post_init__(self) -> None:
        self.core = Core(self.directory)
        self.set_class()
        self.devices: list[EnrolledDevice] = []
        self.versions: dict[str, str] = {}  # digest by version
        builder = Builder(
            artifacts=self.core.artifacts,
            scratch=self.directory / "scratch",
            **self.builder_changes,
        )
        self.room = DeltaRoom(
            self.core.store, builder, now=lambda: self.core.now, bases_max=self.bases_max
        )

    def set_class(self, name: str = CLASS, **changes: Any) -> None:
        spec = {"arch": "x86_64", "memory_budget": MEMORY_BUDGET, "disk_budget": "1GiB"}
        document = {
            "apiVersion": "mailboat/v1",
            "kind": "HardwareClass",
            "metadata": {"name": name},
            "spec": spec | changes,
        }
        with self.core.store.transaction() as tx:
            classes.put(tx, HardwareClass.model_validate(document), self.core.now)

    def enrol(self, count: int) -> None:
        for _ in range(count):
            self.devices.append(self.core.fleet.enrol(f"dev-{len(self.devices)}"))

    def put(self, content: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(content).hexdigest()
        self.core.artifacts.put(digest, iter([content]), len(content))
        return {"sha256": digest, "length": len(content)}

    def release(self, version: str, *contents: bytes, waves: tuple[PlanWave, ...] = ()) -> str:
        """The first is the model, the others are of role ``other`` under names of their own."""
        files = [
            {"path": f"f{number}", "role": "other" if number else "model", **self.put(content)}
            for number, content in enumerate(contents)
        ]
        variant = {
            "hardware_classes": [CLASS],
            "files": files,
            "runtime": {"version": ">=1.18"},
            "peak_memory": 1 << 20,
            "health": {},
        }
        self.core.trust.release(
            version,
            plan(f"r-{version.replace('.', '-')}", *(waves or (EVERYBODY,))),
            variants=[variant],
        )
        reply = self.core.submit("release-vad", "approval-vad")
        assert reply.status == "accepted", reply
        digest = max(self.core.trust.documents, key=list(self.core.trust.documents).index)
        self.versions[version] = digest
        return digest

    def runs(self, version: str, *devices: EnrolledDevice) -> None:
        """These devices, or all, tell that they committed it and report it."""
        digest = self.versions[version]
        for device in devices or self.devices:
            self.core.tell(device, EventKind.TRIAL_STARTED, digest)
            self.core.tell(device, EventKind.COMMITTED, digest)
            self.reports(version, device)

    def reports(self, version: str, *devices: EnrolledDevice) -> None:
        model = ReportedModel(
            model="vad",
            phase=ModelPhase.COMMITTED,
            serving_version=version,
            serving_digest=self.versions[version],
        )
        self.core.now += timedelta(seconds=1)
        for device in devices or self.devices:
            report = device.report(
                models=(model,), observed_at=int(self.core.now.timestamp() * 1000)
            )
            result = self.core.fleet.take(report, now=self.core.now)
            assert not result.quarantined

    def upgrade(self, old: bytes = BASE, new: bytes = TUNED, devices: int = 3) -> None:
        """Everybody runs 1.0.0 with ``old``; 1.1.0 with ``new`` is offered to a pilot alone."""
        self.enrol(devices)
        self.release("1.0.0", old)
        self.runs("1.0.0")
        self.release("1.1.0", new, waves=(PILOT_WAVE, EVERYBODY))

    def look(self) -> bool:
        return self.room.look(self.core.run().wishes)

    def build_all(self) -> None:
        """Look, build everything that is due, and have the classes told."""
        self.look()
        while self.room.build_next():
            pass
        self.room.offer()
        self.core.run()

    def rows(self, *states: State) -> list[DeltaRow]:
        with self.core.store.read() as tx:
            return list(deltas.every(tx, *states))

    def row(self, old: bytes | None, new: bytes) -> DeltaRow:
        base = "" if old is None else hashlib.sha256(old).hexdigest()
        target = hashlib.sha256(new).hexdigest()
        (found,) = [row for row in self.rows() if (row.key.target, row.key.base) == (target, base)]
        return found

    def told(self) -> tuple[Delta, ...]:
        return self.core.desired().deltas

"""A controller's core whose releases have files of their own, really stored."""

import hashlib
from datetime import timedelta
from pathlib import Path

from controller_core import Core, plan
from enrolled_fleet import EnrolledDevice
from mailboat_controller.artifacts.artifact_store import ArtifactStore
from mailboat_controller.artifacts.care import ArtifactCare
from mailboat_controller.artifacts.settings import ArtifactSettings
from mailboat_controller.releases import retirement
from mailboat_controller.store import audit, releases
from mailboat_controller.store.releases import ReleaseRow
from mailboat_schemas.events import EventKind
from mailboat_schemas.submission import SubmissionReply
from trust_fleet import CLASS

ACTOR = "operator:alice"


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Shop(Core):
    """``at`` moves on as tests say."""

    def with_store(self, artifacts: ArtifactStore, settings: ArtifactSettings) -> "Shop":
        self.artifacts = artifacts
        self.admission._artifacts = artifacts
        self.settings = settings
        self.known: dict[str, EnrolledDevice | None] = {}
        self.care = ArtifactCare(self.store, artifacts, settings, lambda: self.now)
        return self

    def put_artifact(self) -> None:
        """Every release has its own files here."""

    def put(self, content: bytes) -> str:
        digest = digest_of(content)
        self.artifacts.put(digest, [content], len(content))
        return digest

    def publish(
        self, version: str, *contents: bytes, approved: bool = True, **changes: object
    ) -> SubmissionReply:
        files = [
            {
                "path": f"{number}.onnx" if number == 0 else f"{number}.txt",
                "role": "model" if number == 0 else "other",
                "sha256": self.put(content),
                "length": len(content),
            }
            for number, content in enumerate(contents)
        ]
        variant = {
            "hardware_classes": [CLASS],
            "files": files,
            "runtime": {"version": ">=1.18"},
            "peak_memory": 1 << 20,
            "health": {},
        }
        name = f"to-{version.replace('.', '-')}"
        self.trust.release(version, plan(name), approve=approved, variants=[variant], **changes)
        roles = ("release-vad", "approval-vad") if approved else ("release-vad",)
        reply = self.submit(*roles)
        self.run()
        return reply

    def row(self, version: str) -> ReleaseRow:
        with self.store.read() as tx:
            row = releases.by_version(tx, "vad", version)
        assert row is not None
        return row

    def complete(self, version: str) -> None:
        """Its rollout, by the word of one device that stays the same."""
        names = ["dev-1"]
        device = self.known.setdefault(names[0], None) or self.fleet.enrol(names[0])
        self.known[names[0]] = device
        self.run()
        self.tell(device, EventKind.COMMITTED, self.row(version).digest)
        assert self.assignment().current is not None

    def retire(self, version: str, *, force: bool = False, told: bool = True) -> None:
        with self.store.transaction() as tx:
            row = self.row(version)
            retirement.retire(tx, row, actor=ACTOR, reason="old", force=force, now=self.now)
        if told:
            self.run()

    def reinstate(self, version: str) -> None:
        with self.store.transaction() as tx:
            retirement.reinstate(
                tx, self.row(version), self.artifacts, actor=ACTOR, reason="oh", now=self.now
            )

    def pass_time(self, **amount: float) -> None:
        self.now += timedelta(**amount)

    def collect(self, *, dry_run: bool = False) -> int:
        return self.care.collect(actor=ACTOR, dry_run=dry_run).removed

    def held(self) -> set[str]:
        return {entry.digest for entry in self.artifacts.entries()}

    def audited(self, action: str) -> list[str]:
        with self.store.read() as tx:
            return [row.subject for row in audit.page(tx, limit=1000) if row.action == action]

    def runs(self, device: EnrolledDevice, version: str) -> None:
        model = {
            "model": "vad",
            "phase": "committed",
            "serving_version": version,
            "serving_digest": self.row(version).digest,
        }
        assert not self.fleet.take(device.report(models=[model]), now=self.now).quarantined


def shop_in(directory: Path, artifacts: ArtifactStore, settings: ArtifactSettings) -> Shop:
    return Shop(directory).with_store(artifacts, settings)

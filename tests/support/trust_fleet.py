"""A small fleet's trust, made by the real ceremony, for tests that need signed bundles."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from mailboat_controller.authority import roles
from mailboat_controller.authority.ceremony import Ceremony, Quorum, hold
from mailboat_controller.authority.keys import load_key
from mailboat_controller.authority.online import OnlineKeys
from mailboat_controller.trust.bundle import compose_bundle
from mailboat_schemas.class_budgets import NO_BUDGETS
from mailboat_schemas.codec import decode
from mailboat_schemas.deltas import Delta
from mailboat_schemas.desired import Assignment, DesiredState, ManifestBundle
from mailboat_schemas.documents.failure_mode import FailureMode
from mailboat_schemas.documents.release import ReleaseDocument, document_digest
from mailboat_schemas.names import release_path
from mailboat_schemas.plan import Plan, PlanWave

FLEET, CLASS, MODEL = "demo", "kiosk-x86", "vad"
ONE = Quorum(threshold=1, keys=1)
EVERYBODY = Plan(rollout="all", waves=(PlanWave(cap_ppm=1_000_000, count_ppm=1_000_000),))


def document(version: str, **changes: object) -> ReleaseDocument:
    """A release document of one variant with one 4-byte model file."""
    content: dict[str, object] = {
        "model": MODEL,
        "version": version,
        "security_version": 0,
        "interface": {
            "inputs": [{"name": "x", "dtype": "float32", "shape": [-1, 4]}],
            "outputs": [{"name": "y", "dtype": "float32", "shape": [-1, 1]}],
        },
        "variants": [
            {
                "hardware_classes": [CLASS],
                "files": [{"path": "m.onnx", "role": "model", "sha256": "ab" * 32, "length": 4}],
                "runtime": {"version": ">=1.18"},
                "peak_memory": 1 << 20,
                "health": {},
            }
        ],
        "compatibility": {},
        "provenance": {},
    }
    return ReleaseDocument.model_validate(content | changes)


@dataclass
class TrustFleet:
    """Keys on disk, newest roles in memory; publishes bundles like a controller."""

    directory: Path
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    models: tuple[str, ...] = (MODEL,)
    approval: Quorum = ONE

    def __post_init__(self) -> None:
        factory_root = self.directory / "root.json"
        if not factory_root.exists():
            ceremony = Ceremony(models=self.models, root=ONE, targets=ONE, approval=self.approval)
            hold(ceremony, self.directory, self.now)
        self.factory_root = factory_root.read_bytes()
        self.roots = [self.factory_root]
        self.online = OnlineKeys.load(self.directory / "controller" / "keys")
        trust = self.directory / "controller" / "trust"
        self.roles = {
            path.stem: path.read_bytes()
            for path in trust.glob("*.json")
            if path.name != "1.root.json"
        }
        self.documents: dict[str, bytes] = {}
        self.counter = 0
        self.deltas: tuple[Delta, ...] = ()  # that bundles offer from now on
        self.budgets = NO_BUDGETS  # of the class, likewise

    def release(
        self,
        version: str,
        plan: Plan = EVERYBODY,
        *,
        approve: bool = True,
        model: str = MODEL,
        **changes: object,
    ) -> str:
        """Sign and, unless told otherwise, approve a release; returns its digest."""
        content = document(version, model=model, **changes).canonical_bytes()
        ci = load_key(self.directory / "ci" / f"{model}.pem")
        names = {"model": model, "version": version, "document": content}
        self.roles[f"release-{model}"] = roles.add_release(
            self.roles[f"release-{model}"], ci, now=self.now, **names
        )
        if approve:
            approver = load_key(self.directory / "approver" / f"{model}.pem")
            self.roles[f"approval-{model}"] = roles.add_approval(
                self.roles[f"approval-{model}"],
                [approver],
                plan=plan.to_custom(),
                now=self.now,
                **names,
            )
        digest = document_digest(content)
        self.documents[digest] = content
        self.resign()
        return digest

    def withdraw(self, version: str) -> None:
        approver = load_key(self.directory / "approver" / f"{MODEL}.pem")
        self.roles["approval-vad"] = roles.remove_approval(
            self.roles["approval-vad"], [approver], model=MODEL, version=version, now=self.now
        )
        self.resign()

    def unlist(self, version: str) -> None:
        """CI takes a release off its list."""
        ci = load_key(self.directory / "ci" / f"{MODEL}.pem")
        current = roles.Metadata[roles.Targets].from_bytes(self.roles["release-vad"]).signed
        path = release_path(MODEL, version)
        listed = {name: each for name, each in current.targets.items() if name != path}
        following = roles.next_version(
            self.roles["release-vad"], listed, self.now, roles.RELEASE_ROLE_VALID
        )
        self.roles["release-vad"] = roles.sign(following, [ci])
        self.resign()

    def resign(self) -> None:
        versions = {
            name: roles.Metadata[roles.Targets].from_bytes(content).signed.version
            for name, content in self.roles.items()
            if name not in {"snapshot", "timestamp"}
        }
        self.roles["snapshot"] = self.online.sign_snapshot(
            self.roles["snapshot"], versions, now=self.now
        )
        self.roles["timestamp"] = self.online.sign_timestamp(
            self.roles["timestamp"], self.roles["snapshot"], now=self.now
        )

    def bundle(
        self,
        *assignments: Assignment,
        fleet: str = FLEET,
        hardware_class: str = CLASS,
        changed: Mapping[str, bytes] | None = None,
        failure_mode: FailureMode = FailureMode.FAIL_SAFE,
    ) -> bytes:
        self.counter += 1
        desired = DesiredState(
            fleet=fleet,
            hardware_class=hardware_class,
            counter=self.counter,
            issued=int(self.now.timestamp()),
            assignments=assignments,
            failure_mode=failure_mode,
            budgets=self.budgets,
            deltas=self.deltas,
        )
        return compose_bundle(
            fleet=fleet,
            hardware_class=hardware_class,
            counter=self.counter,
            roles={**self.roles, **(changed or {})},
            roots=self.roots,
            documents=self.documents,
            desired=self.online.sign_desired(desired),
        )

    def read(self, payload: bytes) -> ManifestBundle:
        return decode(ManifestBundle, payload)

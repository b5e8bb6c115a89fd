"""A controller without its network: real trust, real database, real artifacts directory."""

import stat
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from enrolled_fleet import CLASS, FLEET, NOON, EnrolledDevice, EnrolledFleet
from mailboat_controller.artifacts.directory import DirectoryStore
from mailboat_controller.reconcile import Reconciled, Reconciler
from mailboat_controller.releases.admission import Admission
from mailboat_controller.rollout.decide import Rollout
from mailboat_controller.store import classes, credentials, manifests, outbox, rollouts
from mailboat_controller.store.manifests import ManifestRow
from mailboat_controller.store.outbox import OutboxRow
from mailboat_controller.trust import held_trust
from mailboat_schemas.codec import decode, encode
from mailboat_schemas.desired import Assignment, DesiredState, ManifestBundle
from mailboat_schemas.documents.hardware_class import HardwareClass
from mailboat_schemas.enrolment import Kind
from mailboat_schemas.envelope import Envelope
from mailboat_schemas.events import EventKind
from mailboat_schemas.plan import Plan, PlanWave
from mailboat_schemas.submission import Submission, SubmissionReply
from trust_fleet import TrustFleet

PPM = 1_000_000
EVERYBODY = PlanWave(count_ppm=PPM, cap_ppm=PPM)


def plan(name: str, *waves: PlanWave, **more: object) -> Plan:
    return Plan.model_validate({"rollout": name, "waves": waves or (EVERYBODY,), **more})


@cache
def _begun(models: tuple[str, ...]) -> tuple[tuple[Path, int, bytes | None], ...]:
    """Path, mode and content (None: a directory) of the keys, roles and database of a new core. To
    make them takes several times as long as to copy them."""
    with TemporaryDirectory() as name:
        core = Core(Path(name), models=models, anew=True)
        core.store.checkpoint()
        core.store.close()
        return tuple(
            (
                path.relative_to(name),
                stat.S_IMODE(path.stat().st_mode),
                None if path.is_dir() else path.read_bytes(),
            )
            for path in sorted(Path(name).rglob("*"))
            if path.relative_to(name).parts[0] != "artifacts"  # each of them puts its own
        )


def _lay(directory: Path, models: tuple[str, ...]) -> str:
    """A core that nobody has used; returns its database."""
    for path, mode, content in _begun(models):
        place = directory / path
        if content is None:
            place.mkdir(mode, parents=True, exist_ok=True)
        else:
            place.touch(mode)
            place.write_bytes(content)
    return f"sqlite:///{directory / 'mailboat.db'}"


@dataclass
class Core:
    directory: Path
    now: datetime = NOON
    models: tuple[str, ...] = ("vad",)
    database_url: str = ""  # of a migrated one; empty: a SQLite file
    anew: bool = False  # with keys of its own
    trust: TrustFleet = field(init=False)
    sequences: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        begun = not (self.anew or self.database_url) and self.now == NOON
        if begun:
            self.database_url = _lay(self.directory, self.models)
        self.trust = TrustFleet(self.directory / "ceremony", now=self.now, models=self.models)
        self.fleet = EnrolledFleet(self.directory, self.database_url)
        self.store = self.fleet.store
        if not begun:
            self._begin()
        self.reconciler = Reconciler(self.store, self.trust.online, FLEET)
        self.artifacts = DirectoryStore(self.directory / "artifacts")
        self.admission = Admission(self.store, self.reconciler, self.artifacts, FLEET)
        self.put_artifact()

    def _begin(self) -> None:
        self.add_class(CLASS)
        with self.store.transaction() as tx:
            held_trust.import_directory(tx, self.trust_directory, self.now)
        self.register_pipeline("build")

    def register_pipeline(self, name: str) -> None:
        with self.store.transaction() as tx:
            credentials.add(
                tx,
                serial=f"c{name}",
                name=name,
                kind=Kind.CI,
                # Of the latest instant, whatever time a test plays at.
                expires_at=datetime(2199, 1, 1, tzinfo=UTC),
                at=self.now,
            )

    @property
    def trust_directory(self) -> Path:
        return self.directory / "ceremony" / "controller" / "trust"

    def put_artifact(self) -> None:
        """The one file of every release that `TrustFleet` makes."""
        path = self.artifacts.path("ab" * 32)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"onnx")

    def add_class(self, name: str, **more: object) -> None:
        document = HardwareClass.model_validate(
            {
                "apiVersion": "mailboat/v1",
                "kind": "HardwareClass",
                "metadata": {"name": name},
                "spec": {"arch": "x86_64", "memory_budget": "1GiB", "disk_budget": "9GiB"} | more,
            }
        )
        with self.store.transaction() as tx:
            classes.put(tx, document, self.now)

    def submission(self, *roles: str) -> bytes:
        """What CI or an approver would send for these roles, with every document."""
        return encode(
            Submission(
                fleet=FLEET,
                roles={role: self.trust.roles[role] for role in roles},
                documents=self.trust.documents,
            )
        )

    def submit(self, *roles: str) -> SubmissionReply:
        return self.admission.submit(self.submission(*roles), "ci:build", self.now)

    def release(self, version: str, approved_plan: Plan, *, model: str = "vad") -> str:
        """Release and approve; returns the digest."""
        digest = self.trust.release(version, approved_plan, model=model)
        reply = self.submit(f"release-{model}", f"approval-{model}")
        assert reply.status == "accepted", reply
        return digest

    def run(self) -> Reconciled:
        return self.reconciler.run(self.now)

    def tell(self, device: EnrolledDevice, kind: EventKind, digest: str, **more: object) -> None:
        """A device's next event, taken in and acted on."""
        sequence = self.sequences.get(device.name, 0) + 1
        self.sequences[device.name] = sequence
        result = self.fleet.take(device.tells(sequence, kind, digest=digest, **more), now=self.now)
        assert not result.quarantined
        self.run()

    def rollout(self, name: str) -> Rollout:
        with self.store.read() as tx:
            return rollouts.get(tx, name).rollout

    def outbox(self) -> list[OutboxRow]:
        with self.store.read() as tx:
            return list(outbox.pending(tx, 1000))

    def empty_outbox(self) -> None:
        with self.store.transaction() as tx:
            outbox.remove(tx, [row.id for row in outbox.pending(tx, 1000)])

    def manifest(self, hardware_class: str = CLASS) -> ManifestRow:
        with self.store.read() as tx:
            row = manifests.of_class(tx, hardware_class)
        assert row is not None
        return row

    def desired(self, hardware_class: str = CLASS) -> DesiredState:
        bundle = decode(ManifestBundle, self.manifest(hardware_class).bundle)
        return decode(DesiredState, decode(Envelope, bundle.desired).payload)

    def assignment(self, hardware_class: str = CLASS) -> Assignment:
        (assignment,) = self.desired(hardware_class).assignments
        return assignment

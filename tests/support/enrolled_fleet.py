"""Devices in a real database, each with a real key, and their signed messages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from mailboat_controller.ingest.batch import Ingested, ingest
from mailboat_controller.mqtt.incoming import Incoming
from mailboat_controller.store import devices
from mailboat_controller.store.engine import Store
from mailboat_schemas.codec import WireModel, encode
from mailboat_schemas.envelope import PayloadType, sign_as_device
from mailboat_schemas.events import Event, EventBatch, EventKind
from mailboat_schemas.reports import (
    Hello,
    Presence,
    ReportedState,
    Span,
    TelemetryBatch,
    TelemetryWindow,
)
from mailboat_schemas.topics import Channel, build

FLEET, CLASS = "demo", "kiosk-x86"
NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
EPOCH = "a" * 16
DIGEST = "d" * 64


@dataclass
class EnrolledDevice:
    """One device as its controller sees it: a key, an outbox epoch and numbered events."""

    name: str
    key: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1())
    )
    epoch: str = EPOCH
    site: str = "-"

    @property
    def public_key(self) -> bytes:
        return self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def topic(self, channel: Channel) -> str:
        return build(channel, fleet=FLEET, site=self.site, device=self.name)

    def sealed(self, kind: str, payload: WireModel) -> bytes:
        return encode(sign_as_device(kind, encode(payload), self.key, self.name))

    def event(
        self, sequence: int, kind: EventKind = EventKind.TRUST_STALE, **more: object
    ) -> Event:
        content: dict[str, object] = {
            "event_id": f"vad:{sequence}:{kind.value}",
            "sequence": sequence,
            "kind": kind,
            "observed_at": 0,
            **more,
        }
        return Event.model_validate(content)

    def events(self, events: Sequence[Event], *, of: str | None = None) -> Incoming:
        batch = EventBatch(
            device=of or self.name,
            epoch=self.epoch,
            first=events[0].sequence,
            events=tuple(events),
        )
        envelope = sign_as_device(PayloadType.EVENT_BATCH, encode(batch), self.key, self.name)
        return Incoming(topic=self.topic(Channel.EVENTS), payload=encode(envelope))

    def numbered(self, first: int, last: int) -> Incoming:
        return self.events([self.event(n) for n in range(first, last + 1)])

    def tells(self, sequence: int, kind: EventKind, **more: object) -> Incoming:
        """One event about a release."""
        about = {"model": "vad", "version": "1.0.0", "digest": DIGEST, **more}
        return self.events([self.event(sequence, kind, **about)])

    def hello(self, first: int, last: int, telemetry: tuple[int, int] = (1, 0)) -> Incoming:
        hello = Hello(
            device=self.name,
            epoch=self.epoch,
            events=Span(first=first, last=last),
            telemetry=Span(first=telemetry[0], last=telemetry[1]),
        )
        return Incoming(
            topic=self.topic(Channel.HELLO), payload=self.sealed(PayloadType.HELLO, hello)
        )

    def telemetry(self, first: int, last: int) -> Incoming:
        batch = TelemetryBatch(
            device=self.name,
            epoch=self.epoch,
            first=first,
            windows=tuple(
                TelemetryWindow(
                    sequence=n,
                    model="vad",
                    version="1.0.0",
                    digest=DIGEST,
                    started_at=0,
                    seconds=60,
                    requests_ok=1,
                    requests_error=0,
                )
                for n in range(first, last + 1)
            ),
        )
        return Incoming(
            topic=self.topic(Channel.TELEMETRY),
            payload=self.sealed(PayloadType.TELEMETRY_BATCH, batch),
        )

    def report(self, *, retain: bool = False, **more: object) -> Incoming:
        content: dict[str, object] = {
            "fleet": FLEET,
            "device": self.name,
            "hardware_class": CLASS,
            "site": self.site,
            "session": 1,
            "observed_at": 0,
            "manifest_counter": 0,
            **more,
        }
        payload = encode(ReportedState.model_validate(content))
        envelope = sign_as_device(PayloadType.REPORTED_STATE, payload, self.key, self.name)
        return Incoming(topic=self.topic(Channel.REPORT), payload=encode(envelope), retain=retain)

    def presence(self, session: int, *, online: bool) -> Incoming:
        presence = Presence(device=self.name, session=session, online=online)
        payload = self.sealed(PayloadType.PRESENCE, presence)
        return Incoming(topic=self.topic(Channel.STATUS), payload=payload)


@cache
def migrated_database() -> bytes:
    """An empty database of this version; migrating takes a while, copying does not."""
    with TemporaryDirectory() as directory:
        path = Path(directory) / "empty.db"
        store = Store(f"sqlite:///{path}")
        store.migrate()
        store.close()
        return path.read_bytes()


def lay_database(directory: Path) -> Path:
    """The same, where a controller with this data directory looks for it."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "mailboat.db"
    path.write_bytes(migrated_database())
    return path


def migrated_store(directory: Path) -> Store:
    return Store(f"sqlite:///{lay_database(directory)}")


@dataclass
class EnrolledFleet:
    """A migrated database, a SQLite file unless another is named, and the devices in it."""

    directory: Path
    url: str = ""

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        if not self.url:
            self.url = f"sqlite:///{lay_database(self.directory)}"
        self.store = Store(self.url)

    def enrol(
        self,
        name: str,
        *,
        hardware_class: str = CLASS,
        site: str = "-",
        labels: Mapping[str, str] | None = None,
    ) -> EnrolledDevice:
        device = EnrolledDevice(name, site=site)
        with self.store.transaction() as tx:
            devices.enrol(
                tx,
                device=name,
                hardware_class=hardware_class,
                site=site,
                labels=labels or {},
                public_key=device.public_key,
                at=NOON,
            )
        return device

    def take(self, *messages: Incoming, now: datetime = NOON) -> Ingested:
        with self.store.device_transaction() as tx:
            return ingest(tx, messages, fleet=FLEET, now=now)

    def row(self, device: EnrolledDevice) -> devices.DeviceRow:
        with self.store.read() as tx:
            return devices.get(tx, device.name)

"""Publish, promote, halt: one retained message per class, whatever the number of devices."""

import asyncio
import ssl
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mailboat_agent.identity.device_key import certificate_request
from mailboat_controller.config import load
from mailboat_controller.pki.issuing import Authority
from mailboat_controller.store import devices, manifests
from mailboat_controller.store.engine import Store
from mailboat_schemas import topics
from mailboat_schemas.codec import encode
from mailboat_schemas.envelope import PayloadType, sign_as_device
from mailboat_schemas.events import Event, EventBatch, EventKind
from mailboat_schemas.topics import Channel
from mqtt_subscriber import Subscriber
from real_fleet import RealFleet, running_fleet

FLEET, CLASS, OTHER = "demo", "kiosk-x86", "gateway-arm"
PILOT = "sim-0"
ARRIVAL_SECONDS_MAX = 240.0  # a busy machine
QUIET_SECONDS = 1.5  # how long nothing more may come


class Simulated:
    """N enrolled devices of one class, each with a key, a certificate and a subscription."""

    def __init__(self, fleet: RealFleet, count: int, tmp_path: Path) -> None:
        self._fleet = fleet
        self._tmp_path = tmp_path
        self.names = [f"sim-{number}" for number in range(count)]
        self.received: Counter[str] = Counter()
        self._subscribers: list[Subscriber] = []
        self._pilot_key = ec.generate_private_key(ec.SECP256R1())
        self._sequence = 0

    def enrol(self) -> list[ssl.SSLContext]:
        settings = load(self._fleet.fleet.data / "controller.toml")
        authority, store = Authority.load(settings.pki_dir), Store(settings.store_url)
        now = datetime.now(UTC)
        keys = [self._pilot_key if name == PILOT else _key() for name in self.names]
        contexts = []
        with store.transaction() as tx:
            for name, key in zip(self.names, keys, strict=True):
                public = key.public_key().public_bytes(
                    serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
                )
                number = devices.enrol(
                    tx,
                    device=name,
                    hardware_class=CLASS,
                    site="-",
                    labels={},
                    public_key=public,
                    at=now,
                )
                issued = authority.issue_device(
                    certificate_request(key, name, FLEET).decode(),
                    device=name,
                    enrolment_number=number,
                    now=now,
                    days=1,
                )
                contexts.append(self._context(name, key, issued.certificate, settings.pki_dir))
        store.close()
        return contexts

    def _context(
        self, name: str, key: ec.EllipticCurvePrivateKey, certificate: bytes, pki: Path
    ) -> ssl.SSLContext:
        pem = self._tmp_path / f"{name}.pem"
        pem.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + certificate
        )
        context = ssl.create_default_context(cafile=str(pki / "ca.pem"))
        context.load_cert_chain(pem)
        pem.unlink()
        return context

    async def let_in(self) -> None:
        """Wait until the broker knows them: they went into the registry past the API, which would
        have answered them only then."""
        settings = load(self._fleet.fleet.data / "controller.toml")
        deadline = time.monotonic() + ARRIVAL_SECONDS_MAX
        acl = settings.broker_dir / "acl"
        while f"user {self.names[-1]}\n" not in await asyncio.to_thread(acl.read_text):
            assert time.monotonic() < deadline, "the access rules never named them"
            await asyncio.sleep(0.1)

    async def connect(self, contexts: Sequence[ssl.SSLContext]) -> None:
        topic = topics.build(Channel.MANIFEST, fleet=FLEET, hardware_class=CLASS)
        limit = asyncio.Semaphore(50)

        async def one(name: str, context: ssl.SSLContext) -> Subscriber:
            subscriber = Subscriber(name, self._on_message)
            async with limit:
                await subscriber.connect(self._fleet.fleet.mqtt_port, context, topic)
            return subscriber

        pairs = zip(self.names, contexts, strict=True)
        self._subscribers = list(await asyncio.gather(*(one(*pair) for pair in pairs)))

    async def close(self) -> None:
        for subscriber in self._subscribers:
            await subscriber.close()
        await asyncio.sleep(0)  # the transports close in the loop's next turn

    def _on_message(self, name: str, _topic: str, _payload: bytes) -> None:
        self.received[name] += 1

    async def everybody_has_what_is_retained(self) -> None:
        """Whoever subscribes hears it, at some time after its subscription is answered."""
        deadline = time.monotonic() + ARRIVAL_SECONDS_MAX
        while len(self.received) < len(self.names):
            assert time.monotonic() < deadline, f"{len(self.received)} heard what is retained"
            await asyncio.sleep(0.05)
        await asyncio.sleep(QUIET_SECONDS)
        self.received.clear()

    async def everybody_gets_one(self) -> None:
        """Each subscriber receives one message, and nobody a second one."""
        deadline = time.monotonic() + ARRIVAL_SECONDS_MAX
        while len(self.received) < len(self.names) and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        await asyncio.sleep(QUIET_SECONDS)
        assert set(self.received.values()) == {1}
        assert len(self.received) == len(self.names)
        self.received.clear()

    async def pilot_tells(self, version: str, digest: str, *kinds: EventKind) -> None:
        """What a device's agent would send, signed with its own key."""
        first = self._sequence + 1
        events = []
        for kind in kinds:
            self._sequence += 1
            events.append(
                Event(
                    event_id=f"vad:{version}:{kind}",
                    sequence=self._sequence,
                    kind=kind,
                    observed_at=0,
                    model="vad",
                    version=version,
                    digest=digest,
                )
            )
        batch = EventBatch(device=PILOT, epoch="0" * 16, first=first, events=tuple(events))
        sealed = sign_as_device(PayloadType.EVENT_BATCH, encode(batch), self._pilot_key, "k")
        topic = topics.build(Channel.EVENTS, fleet=FLEET, site="-", device=PILOT)
        await self._subscribers[0].publish(topic, encode(sealed))


def _key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _published(fleet: RealFleet) -> dict[str, int]:
    """Manifests the controller has published so far, by class, from its own counters."""
    found = {}
    for name in (CLASS, OTHER):
        settings = load(fleet.fleet.data / "controller.toml")
        store = Store(settings.store_url)
        with store.read() as tx:
            row = manifests.of_class(tx, name)
        store.close()
        found[name] = 0 if row is None else row.counter
    return found


async def _story(fleet: RealFleet, count: int, tmp_path: Path) -> dict[str, dict[str, int]]:
    """Publish, promote, publish again and halt; how many messages each took, by class."""
    simulated = Simulated(fleet, count, tmp_path)
    contexts = await asyncio.to_thread(simulated.enrol)
    await simulated.let_in()
    await simulated.connect(contexts)
    await simulated.everybody_has_what_is_retained()
    took: dict[str, dict[str, int]] = {}
    waves = f"- pilots: [{PILOT}]\n    - percent: 100"
    good = (EventKind.TRIAL_STARTED, EventKind.SOAK_STARTED, EventKind.COMMITTED)
    bad = (EventKind.TRIAL_STARTED, EventKind.TRIAL_FAILED)

    async def step(name: str) -> None:
        await simulated.everybody_gets_one()
        now = await asyncio.to_thread(_published, fleet)
        took[name] = {each: now[each] - before[each] for each in now}
        before.update(now)

    before = await asyncio.to_thread(_published, fleet)
    try:
        for version, kinds, then in (("1.0.0", good, "promote"), ("1.0.1", bad, "halt")):
            await asyncio.to_thread(fleet.publish, f"r{version[-1]}", version, waves=waves)
            await step(f"publish {version}")
            digest = (await asyncio.to_thread(fleet.fleet.get, "/v1/releases"))[-1]["digest"]
            await simulated.pilot_tells(version, digest, *kinds)
            await step(then)
    finally:
        await simulated.close()
    return took


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("count", [10, 1000])
def test_each_step_of_a_rollout_is_one_message_per_class(
    count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Patches that became ready are a message of their own: here the rollout's are counted.
    monkeypatch.setenv("MAILBOAT_DELTA_BUILDS_AT_ONCE", "0")
    with running_fleet(tmp_path / "fleet", devices_per_class=0) as fleet:
        took = asyncio.run(_story(fleet, count, tmp_path))

    assert {step: messages[CLASS] for step, messages in took.items()} == {
        "publish 1.0.0": 1,
        "promote": 1,
        "publish 1.0.1": 1,
        "halt": 1,
    }

"""A whole agent in virtual time: its real parts on real files, wired as `service.Agent` wires them,
except that its clocks are handed in and the broker is a function call.

The controller's half is real too: the API over TLS, the database, the ingest rules.
"""

import asyncio
import random
import shutil
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from kill_points import count_calls
from mailboat_agent.artifacts.release_store import ReleaseStore
from mailboat_agent.assembly import make_meter, make_reconciler
from mailboat_agent.config import AgentConfig
from mailboat_agent.device_orders import DeviceOrders
from mailboat_agent.facts import Device
from mailboat_agent.identity.credentials import Credentials
from mailboat_agent.identity.device_key import certificate_request, key_der, make_key
from mailboat_agent.journal.event_journal import Journal
from mailboat_agent.journal.outbox import Outbox
from mailboat_agent.journal.telemetry import Telemetry
from mailboat_agent.ledger import Ledger
from mailboat_agent.link.acknowledgement import AckReader
from mailboat_agent.link.correspondence import Correspondence
from mailboat_agent.link.mqtt import LinkDown, LinkUp, Message
from mailboat_agent.logs.answers import LogAnswers
from mailboat_agent.logs.ring import LogRing
from mailboat_agent.report import Reporter
from mailboat_agent.serving.json_tensors import tensor_of_json
from mailboat_agent.serving.process import RuntimeFacts
from mailboat_agent.serving.runtime import Runtime
from mailboat_agent.site_orders import SiteOrders
from mailboat_agent.state_file import StateFile
from mailboat_agent.trust.manifest import Manifest
from mailboat_agent.trust.trust_store import TrustStore
from mailboat_agent.update.state import ModelState
from mailboat_controller.ingest.batch import ingest
from mailboat_controller.mqtt.incoming import Incoming
from mailboat_controller.store import device_certificates, events
from mailboat_controller.store.events import EventRow
from mailboat_schemas.events import Event
from mailboat_schemas.topics import Channel, build
from running_api import RunningApi
from trust_fleet import CLASS, FLEET, MODEL

WORK_SECONDS_MAX = 120.0  # real ones, for a worker to load or a file to come
NAME = "kiosk-1"
LOOKS = 3


@dataclass
class Clock:
    """What the device's clocks say. ``wall`` may jump; ``monotonic`` counts this boot."""

    wall: datetime
    monotonic: float = 0.0

    def advance(self, seconds: float) -> None:
        self.wall += timedelta(seconds=seconds)
        self.monotonic += seconds


class Gate:
    """A port that leads to another one, or, while it is shut, nowhere."""

    def __init__(self, port: int) -> None:
        self._to = port
        self.open = True
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if not self.open:
                near.close()
                continue
            far = socket.create_connection(("127.0.0.1", self._to))
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=_pump, args=(one, other), daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


def _pump(one: socket.socket, other: socket.socket) -> None:
    with suppress(OSError):
        while content := one.recv(65536):
            other.sendall(content)
    for each in (one, other):
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()


@dataclass
class Wire:
    """The broker and the controller's receiver behind it, at once and without a loss."""

    api: RunningApi
    connected: bool = False
    answers: list[Message] = field(default_factory=list)

    def publish(self, topic: str, payload: bytes, **_qos_and_retain: object) -> bool:
        if not self.connected:
            return False
        message = Incoming(topic=topic, payload=payload)
        with self.api.store.transaction() as tx:
            taken = ingest(tx, [message], fleet=FLEET, now=datetime.now(UTC))
        assert not taken.quarantined, taken
        for ack_topic, ack in taken.acks:
            self.deliver(ack_topic, self.api.trust.online.sign_ack(ack))
        return True

    def deliver(self, topic: str, payload: bytes) -> None:
        if self.connected:
            self.answers.append(Message(topic, payload, False, 1, 1, 1))

    def acknowledge(self, message: Message) -> None:
        """The broker may forget it."""


class VirtualDevice:
    """`turn` is one pass of the agent's loop; `reboot` is a power cut, at once or at a disk call
    that is still to come (`cut_at`)."""

    def __init__(
        self, directory: Path, api: RunningApi, gate: Gate, clock: Clock, seed: int
    ) -> None:
        self.directory = directory
        self.api = api
        self.clock = clock
        self.rng = random.Random(seed)
        self.wire = Wire(api)
        directory.mkdir()
        self.config = self._enrol(gate)
        self._image: Path | None = None  # of the disk, when power failed
        self._patches: pytest.MonkeyPatch | None = None
        self.boots = 0

    # --- before it starts ------------------------------------------------------------------------

    def _enrol(self, gate: Gate) -> AgentConfig:
        identity = self.directory / "identity"
        identity.mkdir()
        (identity / "ca.pem").write_bytes(self.api.authority.ca_pem)
        (identity / "root.json").write_bytes(self.api.trust.factory_root)
        self._key = make_key(identity / "device.key")
        answer = self.api.enrol(NAME, key=self._key)
        assert answer.status == 201, answer.content
        self._number = int(answer.json["enrolment_number"])
        (identity / "device.pem").write_text(answer.json["certificate"])
        return AgentConfig(
            fleet=FLEET,
            device=NAME,
            hardware_class=CLASS,
            data_dir=self.directory / "data",
            api_url=f"https://127.0.0.1:{gate.port}",
            mqtt_host="127.0.0.1",
            mqtt_port=8883,
            ca=identity / "ca.pem",
            certificate=identity / "device.pem",
            key=identity / "device.key",
            trust_root=identity / "root.json",
        )

    def certify(self, *, at: datetime, days: int) -> None:
        """Give it a certificate of that time for the key it has."""
        request = certificate_request(self._key, NAME, FLEET).decode()
        issued = self.api.authority.issue_device(
            request, device=NAME, enrolment_number=self._number, now=at, days=days
        )
        with self.api.store.transaction() as tx:
            device_certificates.record(
                tx,
                NAME,
                serial=issued.serial,
                public_key=key_der(self._key),
                issued_at=at,
                expires_at=issued.expires_at,
            )
        self.config.certificate.write_bytes(issued.certificate)

    # --- a life ----------------------------------------------------------------------------------

    def boot(self) -> None:
        """Everything from the disk, as `service.Agent` does it."""
        self.boots += 1
        config, rng, clock = self.config, self.rng, self.clock
        self.store = ReleaseStore(config.data_dir)
        self.credentials = Credentials(config, self.store.content_keys, now=clock.wall)
        self.journal = Journal(config.data_dir / "journal.db", rng)
        state_file = StateFile(config.data_dir)
        self.ledger = Ledger(state_file, self.journal, now=clock.wall, rng=rng)
        self.manifest = Manifest(
            trust=TrustStore(config.data_dir, config.trust_root.read_bytes()),
            store=self.store,
            fleet=FLEET,
            hardware_class=CLASS,
        )
        self.runtime = Runtime(clock=lambda: clock.wall)
        self.ledger.begin_session()
        for problem in state_file.problems:
            self.ledger.tell_damage("state", problem, clock.wall)
        device = Device.of(config, enrolment_number=self.credentials.identity.enrolment_number)
        device.runtime = RuntimeFacts("1.20.0", ("CPUExecutionProvider",))
        self.reconciler = make_reconciler(
            config,
            device,
            ledger=self.ledger,
            manifest=self.manifest,
            store=self.store,
            credentials=self.credentials,
            runtime=self.runtime,
            rng=rng,
            wake=lambda: None,
            meter=make_meter(config, lambda: clock.wall),
            pressure=str,
        )
        self.reconciler.open(clock.wall)
        self.reconciler.begin_serving(clock.wall, clock.monotonic)
        self._connect(device)

    def _connect(self, device: Device) -> None:
        rng, clock = self.rng, self.clock
        self.log_ring = LogRing(self.config.data_dir / "logs", 0)
        reporter = Reporter(
            device=device,
            identity=self.credentials.identity,
            ledger=self.ledger,
            manifest=self.manifest,
            store=self.store,
            runtime=self.runtime,
            reconciler=self.reconciler,
        )
        self.reporter = reporter
        acks = AckReader(device=NAME, manifest=self.manifest, ledger=self.ledger)
        site = SiteOrders(self.config.data_dir, device, self.manifest, self.ledger)
        orders = DeviceOrders(self.config.data_dir, device, acks, self.manifest, site)
        orders.open(clock.wall)
        self.post = Correspondence(
            device=device,
            link=self.wire,  # type: ignore[arg-type]
            outbox=Outbox(NAME, self.journal, self.credentials.seal, rng),
            reporter=reporter,
            reconciler=self.reconciler,
            acks=acks,
            ledger=self.ledger,
            report_seconds_min=1,
            log_answers=LogAnswers(NAME, self.log_ring, self.credentials.seal),
            orders=orders,
        )
        self.telemetry = Telemetry(self.runtime, self.journal, clock.wall)
        self.renewal = self.credentials.renewal(
            connected=lambda: self.wire.connected,
            reconnect=lambda: None,
            now=lambda: clock.wall,
            rng=rng,
        )
        self.renewal._monotonic = lambda: clock.monotonic
        self.renewal._connected_at = clock.monotonic
        self.renew_at = clock.monotonic

    async def turn(self) -> None:
        """One pass of the loop, and its errands brought to an end in real time."""
        clock = self.clock
        loop = asyncio.get_running_loop()
        give_up = loop.time() + WORK_SECONDS_MAX
        for _ in range(LOOKS):  # a record wakes the loop: what follows from it comes at once
            await self.reconciler.step(clock.wall, clock.monotonic)
            while self.reconciler.busy:
                assert loop.time() < give_up, "an errand does not end"
                await asyncio.sleep(0.005)
                await self.reconciler.step(clock.wall, clock.monotonic)
        if clock.monotonic >= self.renew_at:
            self.renew_at = clock.monotonic + await self.renewal.look()
        for _ in range(20):  # what is said is answered at once, and the answer lets more be said
            self.post.report(self.reporter.build(clock.wall), clock.monotonic)
            self.post.send(clock.wall, clock.monotonic)
            if not self.wire.answers:
                break
            while self.wire.answers:
                self.post.handle(self.wire.answers.pop(0), clock.wall, clock.monotonic)

    def connect(self) -> None:
        self.wire.connected = True
        self.post.handle(LinkUp(session_present=False), self.clock.wall, self.clock.monotonic)

    def disconnect(self) -> None:
        self.wire.connected = False
        self.wire.answers.clear()
        down = LinkDown("the network is gone")
        self.post.handle(down, self.clock.wall, self.clock.monotonic)

    def publish(self, bundle: bytes) -> None:
        self.wire.deliver(build(Channel.MANIFEST, fleet=FLEET, hardware_class=CLASS), bundle)

    def drain_telemetry(self, seconds: float) -> None:
        self.telemetry.drain(self.reconciler.loops, self.clock.wall, seconds)

    def ask(self) -> list[float]:
        """One request, answered by whatever serves: y for x = 0 1 2 3."""
        content: dict[str, Any] = {"name": "x", "datatype": "FP32", "shape": [1, 4]}
        x = tensor_of_json(content | {"data": [0, 1, 2, 3]})
        future = self.runtime.submit(
            MODEL,
            None,
            [x],
            [],
            deadline=asyncio.get_running_loop().time() + 60,
            encode=lambda _, inference: inference.outputs,
        )
        (y,) = future.result(60)
        return [float(value) for value in y.values()]

    # --- the end of a life -----------------------------------------------------------------------

    def cut_at(self, call: int) -> None:
        """Power fails before the disk call with this number, from 0: what the disk holds then is
        kept, and nothing that is said from then on is heard."""
        self._patches = pytest.MonkeyPatch()
        count_calls(self._patches, call, self._fail)

    def _fail(self) -> None:
        self.end_of_cut()
        image = self.directory / "image"
        shutil.rmtree(image, ignore_errors=True)
        shutil.copytree(self.config.data_dir, image)
        self._image = image
        self.wire.connected = False
        self.wire.answers.clear()

    def end_of_cut(self) -> None:
        if self._patches is not None:
            self._patches.undo()
            self._patches = None

    @property
    def has_failed(self) -> bool:
        return self._image is not None

    async def stop(self) -> None:
        self.end_of_cut()
        await self.reconciler.close()
        await asyncio.to_thread(self.runtime.close)
        await self.credentials.close()
        self.journal.close()
        if self._image is not None:
            shutil.rmtree(self.config.data_dir)
            self._image.rename(self.config.data_dir)
            self._image = None

    async def reboot(self) -> None:
        await self.stop()
        self.boot()

    # --- what is known of it ---------------------------------------------------------------------

    @property
    def state(self) -> ModelState:
        return self.ledger.model(MODEL)

    @property
    def serving(self) -> str | None:
        stats = self.runtime.snapshot(MODEL)
        return None if stats is None else stats.version

    def events(self) -> list[Event]:
        """Those that wait."""
        return self.journal.events_after(0, 10_000, 1 << 24)

    def told(self) -> list[EventRow]:
        """Those that the controller has, in the order in which it took them."""
        with self.api.store.read() as tx:
            return list(events.page(tx, device=NAME, limit=10_000))

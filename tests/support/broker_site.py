"""A real mosquitto with our configuration and rules, and MQTT 5 clients with real certificates."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from mailboat_controller.broker import access_files
from mailboat_controller.broker.embedded import MosquittoBroker
from mailboat_controller.pki.issuing import Authority, TlsFiles
from mailboat_controller.store.broker_access import Access
from mailboat_schemas.enrolment import Kind
from running_api import certificate_request, write_key
from unused_port import unused_port

NOW = datetime.now(UTC)
WAIT_SECONDS = 60
REFUSED = 0x87


class Site:
    """One broker with its CA, and certificates for everybody."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority = Authority.create(directory / "pki", "demo", now=NOW)
        self.write_access()
        self.broker = MosquittoBroker(
            directory / "broker",
            fleet="demo",
            files=self.authority.server_files(["localhost", "127.0.0.1"], now=NOW),
            port=unused_port(),
        )

    def write_access(self, **changes: Any) -> None:
        nobody: tuple[Any, ...] = ()
        access = Access(
            devices=(("dev-1", "kiosk"), ("dev-2", "kiosk"), ("dev-9", "camera")),
            pipelines=("build",),
            dashboards=("grafana",),
            sites=("harbour",),
            cut_off=nobody,
            refused=nobody,
        )
        access_files.write(
            self.directory / "broker",
            replace(access, **changes),
            fleet="demo",
            authority=self.authority,
            now=NOW,
        )

    def files(self, kind: Kind, name: str) -> TlsFiles:
        if kind is Kind.CONTROLLER:
            return self.authority.controller_files(now=NOW)
        certificate = self.directory / f"{name}.pem"
        key = self.directory / f"{name}.key"
        if not certificate.exists() and kind is Kind.DEVICE:
            private = ec.generate_private_key(ec.SECP256R1())
            issued = self.authority.issue_device(
                certificate_request(private), device=name, enrolment_number=1, now=NOW, days=1
            )
            write_key(private, key)
            certificate.write_bytes(issued.certificate)
        elif not certificate.exists():
            issued = self.authority.issue_credential(kind, name, now=NOW)
            key.write_bytes(issued.key or b"")
            certificate.write_bytes(issued.certificate)
        return TlsFiles(ca=self.authority.ca_path, certificate=certificate, key=key)


class Peer:
    """A connected MQTT 5 client that remembers what it heard."""

    def __init__(self, site: Site, kind: Kind, name: str, client_id: str = "") -> None:
        self.heard: list[tuple[str, bytes]] = []
        self.session_present: bool | None = None
        self.connections = 0
        self.disconnections = 0
        self._codes: dict[int, int] = {}
        self._changed = threading.Condition()
        self._client = Client(
            CallbackAPIVersion.VERSION2, client_id or name, protocol=MQTTProtocolVersion.MQTTv5
        )
        files = site.files(kind, name)
        self._client.tls_set(
            str(files.ca),
            str(files.certificate),
            str(files.key),
            tls_version=ssl.PROTOCOL_TLS_CLIENT,
        )
        self._client.on_connect = self._connected
        self._client.on_publish = self._published
        self._client.on_message = self._message
        self._client.on_disconnect = self._disconnected
        self._client.on_subscribe = self._subscribed
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 60
        self._client.connect(
            site.broker.host, site.broker.port, clean_start=False, properties=properties
        )
        self._client.loop_start()
        self._await(lambda: self.session_present is not None)

    def publish(self, topic: str, payload: bytes = b"x", *, retain: bool = False) -> int:
        """The reason code of the PUBACK."""
        sent = self._client.publish(topic, payload, qos=1, retain=retain)
        self._await(lambda: sent.mid in self._codes)
        return self._codes[sent.mid]

    def subscribe(self, topic: str) -> None:
        _result, mid = self._client.subscribe(topic, qos=1)
        assert mid is not None
        self._await(lambda: -mid in self._codes)

    def hears(self, topic: str, seconds: float = WAIT_SECONDS) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: topic in dict(self.heard), seconds)

    def is_cut_off(self, seconds: float = WAIT_SECONDS) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self.disconnections > 0, seconds)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _await(self, condition: object) -> None:
        with self._changed:
            assert callable(condition)
            assert self._changed.wait_for(condition, WAIT_SECONDS), "no answer from the broker"

    def _connected(
        self, _client: Client, _data: object, flags: ConnectFlags, code: ReasonCode, _more: object
    ) -> None:
        assert not code.is_failure
        with self._changed:
            self.session_present = flags.session_present
            self.connections += 1
            self._changed.notify_all()

    def _disconnected(
        self,
        _client: Client,
        _data: object,
        _flags: DisconnectFlags,
        _code: ReasonCode,
        _more: object,
    ) -> None:
        with self._changed:
            self.disconnections += 1
            self._changed.notify_all()

    def _published(
        self, _client: Client, _data: object, mid: int, code: ReasonCode, _more: object
    ) -> None:
        with self._changed:
            self._codes[mid] = code.value
            self._changed.notify_all()

    def _subscribed(
        self, _client: Client, _data: object, mid: int, codes: list[ReasonCode], _more: object
    ) -> None:
        with self._changed:
            self._codes[-mid] = codes[0].value
            self._changed.notify_all()

    def _message(self, _client: Client, _data: object, message: MQTTMessage) -> None:
        with self._changed:
            self.heard.append((message.topic, message.payload))
            self._changed.notify_all()


@contextmanager
def running_broker(directory: Path) -> Iterator[Site]:
    """It ends whatever happens."""
    site = Site(directory)
    site.broker.start()
    try:
        yield site
    finally:
        site.broker.stop()


@contextmanager
def connected(site: Site, kind: Kind, name: str) -> Iterator[Peer]:
    peer = Peer(site, kind, name)
    try:
        yield peer
    finally:
        peer.close()


def speak_to(site: Site, context: ssl.SSLContext) -> None:
    """Raises when the broker does not want us. TLS 1.3 tells only with the first read."""
    address = (site.broker.host, site.broker.port)
    with (
        socket.create_connection(address, timeout=WAIT_SECONDS) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as tls,
    ):
        tls.sendall(b"\x10\x0d\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x00")
        if not tls.recv(1):
            raise ConnectionResetError

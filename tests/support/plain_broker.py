"""A real mosquitto on loopback without TLS, and small MQTT clients to talk to it."""

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from mailboat_controller.broker.embedded import find_mosquitto
from unused_port import unused_port

START_SECONDS_MAX = 60.0


@dataclass
class PlainBroker:
    """Anonymous, MQTT 5, nothing persistent: what is lost with it must not matter."""

    directory: Path
    acl: str = ""
    port: int = 0
    queued_messages_max: int = 100_000  # for each client that is away; beyond it they are dropped
    process: subprocess.Popen[bytes] | None = field(default=None)

    def start(self) -> None:
        self.port = self.port or unused_port()
        lines = [
            f"listener {self.port} 127.0.0.1",
            "allow_anonymous true",
            "persistence false",
            f"max_queued_messages {self.queued_messages_max}",
            "max_inflight_messages 1000",
            "set_tcp_nodelay true",
        ]
        if self.acl:
            (self.directory / "acl").write_text(self.acl)
            lines += [f"acl_file {self.directory / 'acl'}", "user root"]
        config = self.directory / "mosquitto.conf"
        config.write_text("\n".join(lines) + "\n")
        log = (self.directory / "mosquitto.log").open("ab")
        self.process = subprocess.Popen(
            [str(find_mosquitto()), "-c", str(config)], stdout=log, stderr=log
        )
        deadline = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < deadline and self.process.poll() is None:
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            time.sleep(0.01)
        raise RuntimeError((self.directory / "mosquitto.log").read_text())

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@contextmanager
def plain_broker(
    directory: Path, acl: str = "", *, queued_messages_max: int = 100_000
) -> Iterator[PlainBroker]:
    broker = PlainBroker(directory, acl, queued_messages_max=queued_messages_max)
    broker.start()
    try:
        yield broker
    finally:
        broker.kill()


class Peer:
    """A client that keeps everything it hears, in order."""

    def __init__(self, port: int, name: str, *filters: str) -> None:
        self.heard: list[MQTTMessage] = []
        self._subscribed = not filters
        self._client = Client(
            CallbackAPIVersion.VERSION2, client_id=name, protocol=MQTTProtocolVersion.MQTTv5
        )
        self._client.on_message = lambda _c, _u, message: self.heard.append(message)
        self._client.on_subscribe = self._on_subscribe
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        if filters:
            self._client.subscribe([(each, 1) for each in filters])
        self.until(lambda: self._client.is_connected() and self._subscribed)

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        response_topic: str | None = None,
        correlation_data: bytes | None = None,
    ) -> None:
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        if response_topic is not None:
            properties.ResponseTopic = response_topic
        if correlation_data is not None:
            properties.CorrelationData = correlation_data
        info = self._client.publish(topic, payload, qos=qos, retain=retain, properties=properties)
        info.wait_for_publish(10)

    def until(self, condition: Any, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "this did not happen in time"
            time.sleep(0.005)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _on_subscribe(self, *_: Any) -> None:
        self._subscribed = True

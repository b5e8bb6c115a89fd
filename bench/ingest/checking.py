"""The devices' signatures checked and nothing else: what the cores could take in at best.

One process for each core, as `mailboat ingest` shares the devices out: each hears every message,
checks those of its own devices, and acknowledges.
"""

import socket
import time
from collections.abc import Mapping
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event

from bench import mqtt_wire as wire
from cryptography.hazmat.primitives.asymmetric import ec

from mailboat_controller.ingest.partition import device_of, share
from mailboat_schemas.codec import decode
from mailboat_schemas.envelope import Envelope, PayloadType, open_from_device

_SUBACK = 9
_RECEIVE_BYTES = 1 << 16


def main(
    address: tuple[int, str],
    part: tuple[int, int],
    keys: Mapping[str, ec.EllipticCurvePublicKey],
    messages: int,
    ready: Event,
    spent_seconds: "Synchronized[float]",
) -> None:
    """For a process of its own; ends when it has heard ``messages``.

    Args:
        address: the broker's port, and the topic filter.
        part: the number of this process and how many there are.
        keys: by device.
    """
    port, topics = address
    owns = share(*part)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(wire.connect(f"checker-{part[0]}", receive_maximum=5000))
        connection.sendall(wire.subscribe(1, [(topics, 1)]))
        reader, heard = wire.Reader(), 0
        began = time.process_time()
        while heard < messages:
            content = connection.recv(_RECEIVE_BYTES)
            if not content:
                raise RuntimeError("the broker closed the connection")
            answers = []
            for first, body in reader.feed(content):
                if first >> 4 == _SUBACK:
                    ready.set()
                if first >> 4 != wire.PUBLISH:
                    continue
                topic, payload, mid = wire.read_publish(first, body)
                if owns(topic):
                    device = device_of(topic) or ""
                    envelope = decode(Envelope, payload)
                    open_from_device(envelope, PayloadType.EVENT_BATCH, keys[device], device)
                answers.append(wire.puback(mid))
                heard += 1
            connection.sendall(b"".join(answers))
        spent_seconds.value = time.process_time() - began

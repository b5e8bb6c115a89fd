"""All messages of a load to the broker, as fast as it takes them: QoS 1, many on their way."""

import socket
import sys
from collections.abc import Sequence

from bench import mqtt_wire as wire

from mailboat_controller.mqtt.incoming import Incoming

WINDOW = 1000  # what the broker is configured to take
AT_ONCE = 100
_RECEIVE_BYTES = 1 << 16


def publish(port: int, messages: Sequence[Incoming]) -> None:
    """Ends when the broker has acknowledged all of them.

    Raises:
        RuntimeError: it refused one, or the connection.
    """
    # The id of a message is free again when the one before it by a window was acknowledged, and the
    # broker acknowledges in order.
    packets = [
        wire.publish(message.topic, message.payload, number % WINDOW + 1)
        for number, message in enumerate(messages)
    ]
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(wire.connect("publisher"))
        reader = wire.Reader()
        sent = acknowledged = 0
        while acknowledged < len(packets):
            room = min(WINDOW - (sent - acknowledged), AT_ONCE)
            connection.sendall(b"".join(packets[sent : sent + room]))
            sent = min(sent + room, len(packets))
            waits = sent == len(packets) or sent - acknowledged >= WINDOW
            try:
                content = connection.recv(_RECEIVE_BYTES, 0 if waits else socket.MSG_DONTWAIT)
            except BlockingIOError:
                continue
            if not content:
                raise RuntimeError("the broker closed the connection")
            for first, body in reader.feed(content):
                if first >> 4 == wire.PUBACK:
                    if len(body) > 2 and body[2] >= 0x80:
                        raise RuntimeError(f"the broker refused a message: 0x{body[2]:02x}")
                    acknowledged += 1


def main(port: int, messages: Sequence[Incoming]) -> None:
    """For a process of its own."""
    try:
        publish(port, messages)
    except (OSError, RuntimeError) as error:
        sys.exit(str(error))

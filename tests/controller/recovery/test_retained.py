"""The listening connection against brokers that do not give what was asked for."""

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from mailboat_controller.mqtt import retained

pytestmark = pytest.mark.slow

CONNACK_ACCEPTED = b"\x20\x03\x00\x00\x00"
CONNACK_NOT_AUTHORIZED = b"\x20\x03\x00\x87\x00"


def suback(packet: bytes, reason: int) -> bytes:
    """For one subscription of a SUBSCRIBE with a length of one byte."""
    return b"\x90\x04" + packet[2:4] + b"\x00" + bytes([reason])


@pytest.fixture
def broker() -> Iterator[Callable[[Callable[[socket.socket], None]], tuple[int, list[int]]]]:
    listener = socket.create_server(("127.0.0.1", 0))
    threads = []

    def start(answer: Callable[[socket.socket], None]) -> tuple[int, list[int]]:
        seen: list[int] = []

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                seen.append(1)
                with connection:
                    connection.settimeout(30)
                    try:
                        answer(connection)
                        while connection.recv(1000):
                            pass
                    except OSError:
                        continue

        threads.append(threading.Thread(target=serve))
        threads[0].start()
        return listener.getsockname()[1], seen

    yield start
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    for thread in threads:
        thread.join(30)


def subscribed(reason: int) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(CONNACK_ACCEPTED)
        connection.sendall(suback(connection.recv(1000), reason))

    return answer


def heard(port: int, stopped: Callable[[], bool]) -> list[object]:
    found: list[object] = []
    for message in retained.listen(
        host="127.0.0.1", port=port, tls=None, filters=("a/b",), stopped=stopped
    ):
        found.append(message)
        break
    return found


def test_a_broker_that_has_taken_the_subscriptions_and_says_nothing_was_heard(
    broker: Callable[[Callable[[socket.socket], None]], tuple[int, list[int]]],
) -> None:
    port, _ = broker(subscribed(1))

    assert heard(port, lambda: False) == [None]


def test_a_broker_that_refuses_the_subscription_is_asked_again_and_was_never_heard(
    broker: Callable[[Callable[[socket.socket], None]], tuple[int, list[int]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retained, "RETRY_SECONDS", 0.1)
    port, seen = broker(subscribed(0x87))

    assert heard(port, lambda: len(seen) >= 3) == []


def test_a_broker_that_refuses_the_connection_is_not_asked_without_a_rest(
    broker: Callable[[Callable[[socket.socket], None]], tuple[int, list[int]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rests: list[int] = []
    monkeypatch.setattr(retained, "_rest", lambda _stopped: rests.append(1))

    def answer(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(CONNACK_NOT_AUTHORIZED)

    port, seen = broker(answer)

    assert heard(port, lambda: len(seen) >= 3) == []
    assert len(rests) >= 2

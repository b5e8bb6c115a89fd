"""Reading ahead gives paho the same bytes in the same order, and never lets it wait for what is
there."""

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.enums import CallbackAPIVersion

from mailboat_controller.mqtt import buffered_client
from mailboat_controller.mqtt.buffered_client import BufferedClient, BufferedSocket


@given(st.binary(min_size=1, max_size=500), st.lists(st.integers(1, 60), min_size=1))
def test_what_is_asked_for_piece_by_piece_is_what_was_sent(sent: bytes, sizes: list[int]) -> None:
    near, far = socket.socketpair()
    with near, far:
        far.sendall(sent)
        buffered, found = BufferedSocket(near), b""
        near.setblocking(False)
        while len(found) < len(sent):
            piece = buffered.recv(sizes[len(found) % len(sizes)])
            found += piece
            assert buffered.pending() == len(sent) - len(found)

        assert found == sent
        with pytest.raises(BlockingIOError):
            buffered.recv(1)
        far.close()
        assert buffered.recv(1) == b""


def test_no_more_is_read_ahead_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffered_client, "READ_AHEAD_BYTES", 10)
    near, far = socket.socketpair()
    with near, far:
        far.sendall(b"x" * 25)
        buffered = BufferedSocket(near)

        assert buffered.recv(1) == b"x"
        assert buffered.held_bytes == 9


def test_many_acknowledgements_are_one_write_of_the_same_packets_in_order() -> None:
    near, far = socket.socketpair()
    with near, far:
        client = BufferedClient(CallbackAPIVersion.VERSION2, manual_ack=True)
        client._sock = BufferedSocket(near)

        client.acknowledge([1, 258, 65535])
        client.acknowledge([])

        assert far.recv(100) == b"\x40\x02\x00\x01" + b"\x40\x02\x01\x02" + b"\x40\x02\xff\xff"
        client._sock = None

"""Reading ahead gives paho the same bytes in the same order, and never lets it wait for what is
there."""

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailboat_controller.mqtt import buffered_client
from mailboat_controller.mqtt.buffered_client import BufferedSocket


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

"""Payloads in and out, and the bounds that hold against hostile bytes."""

import msgpack
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from mailboat_schemas.codec import decode, encode
from mailboat_schemas.desired import ManifestBundle
from mailboat_schemas.errors import MailboatError, MalformedPayload, PayloadTooLarge
from mailboat_schemas.reports import Ack, Presence

ACK = Ack(device="kiosk-1", epoch="0123456789abcdef", events_acked=7, telemetry_acked=3)
BUNDLE = ManifestBundle(
    fleet="demo",
    hardware_class="kiosk",
    counter=1,
    trust={"timestamp.json": b"{}" * 2000},
    documents={},
    desired=b"x",
)


def test_a_payload_comes_back_as_it_went() -> None:
    assert decode(Ack, encode(ACK)) == ACK


def test_a_small_payload_travels_uncompressed_and_a_large_one_as_zstd() -> None:
    assert encode(ACK)[0] & 0x80
    assert encode(BUNDLE)[:4] == b"\x28\xb5\x2f\xfd"
    assert decode(ManifestBundle, encode(BUNDLE)) == BUNDLE


def test_unknown_fields_are_ignored_so_that_old_readers_outlive_new_senders() -> None:
    content = msgpack.unpackb(encode(ACK)) | {"added_in_2031": [1, 2]}

    assert decode(Ack, msgpack.packb(content)) == ACK


def test_another_contract_version_is_refused_by_name() -> None:
    content = msgpack.unpackb(encode(ACK)) | {"v": 2}

    with pytest.raises(MalformedPayload, match="contract version 2"):
        decode(Ack, msgpack.packb(content))


def test_a_payload_over_its_bound_is_refused_before_it_is_unpacked() -> None:
    with pytest.raises(PayloadTooLarge, match="5000 bytes is over the limit of 4096"):
        decode(Ack, b"\x80" * 5000)


def test_a_payload_at_its_bound_is_not_refused_for_its_size() -> None:
    with pytest.raises(MalformedPayload) as caught:
        decode(Ack, b"\x80" * Ack.wire_bytes_max)

    assert not isinstance(caught.value, PayloadTooLarge)


def test_a_decompression_bomb_stops_at_the_bound() -> None:
    bomb = zstandard.ZstdCompressor(level=19).compress(b"\0" * (64 << 20))
    assert len(bomb) < ManifestBundle.wire_bytes_max

    with pytest.raises(PayloadTooLarge):
        decode(ManifestBundle, bomb)


def test_a_frame_that_asks_for_a_giant_window_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=27)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    frame = compressor.compress(b"x" * 100) + compressor.flush()

    with pytest.raises(MalformedPayload, match="zstd"):
        decode(ManifestBundle, frame)


def test_a_sender_cannot_make_a_payload_over_the_bound() -> None:
    huge = BUNDLE.model_copy(update={"desired": b"x" * (5 << 20)})

    with pytest.raises(PayloadTooLarge):
        encode(huge)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x81",
        b"[]",
        b"\x28\xb5\x2f\xfd",
        b"\xc1",
        b"\xdd\xff\xff\xff\xff",
        b"\x93\x01\x02\x03",
    ],
)
def test_garbage_is_malformed_and_nothing_worse(payload: bytes) -> None:
    with pytest.raises(MalformedPayload):
        decode(Presence, payload)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_no_bytes_raise_anything_but_our_own_errors(payload: bytes) -> None:
    try:
        decode(Presence, payload)
    except MailboatError as error:
        assert error.next_step


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 30), st.binary(min_size=1, max_size=3))
def test_no_damaged_payload_raises_anything_but_our_own_errors(at: int, damage: bytes) -> None:
    whole = encode(BUNDLE)
    damaged = whole[:at] + damage + whole[at + len(damage) :]

    try:
        decode(ManifestBundle, damaged)
    except MailboatError as error:
        assert error.next_step

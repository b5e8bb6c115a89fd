"""An encrypted file opens to exactly what was written, or not at all."""

import hashlib
import tracemalloc
from collections.abc import Iterable, Iterator

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from mailboat_schemas import sealing
from mailboat_schemas.content_key import WrongContentKey
from mailboat_schemas.sealing import (
    HEADER_BYTES,
    SEGMENT_BYTES,
    TAG_BYTES,
    SealedDamaged,
    open_sealed,
    salt_of,
    seal,
    sealed_length,
)

KEY, OTHER_KEY = b"k" * 32, b"o" * 32
PIECE = SEGMENT_BYTES + TAG_BYTES
THREE_AND_A_BIT = bytes(range(256)) * (3 * SEGMENT_BYTES // 256) + b"a bit"
LENGTHS = [0, 1, SEGMENT_BYTES - 1, SEGMENT_BYTES, SEGMENT_BYTES + 1, 3 * SEGMENT_BYTES, 200_001]


def sealed(content: bytes, key: bytes = KEY) -> bytes:
    salt = salt_of(key, hashlib.sha256(content).hexdigest(), len(content))
    return b"".join(seal([content], key, salt))


def opened(content: bytes, key: bytes = KEY) -> bytes:
    return b"".join(open_sealed([content], key))


def pieces(content: bytes) -> tuple[bytes, list[bytes]]:
    """The header and the segments."""
    rest = content[HEADER_BYTES:]
    return content[:HEADER_BYTES], [rest[i : i + PIECE] for i in range(0, len(rest), PIECE)]


@pytest.mark.parametrize("length", LENGTHS)
def test_what_was_sealed_opens_to_the_same_bytes_and_has_the_length_foretold(length: int) -> None:
    content = b"x" * length

    encrypted = sealed(content)

    assert opened(encrypted) == content
    assert len(encrypted) == sealed_length(length)


@settings(max_examples=40, deadline=None)
@given(
    content=st.binary(max_size=3 * SEGMENT_BYTES),
    cut=st.integers(min_value=1, max_value=2 * SEGMENT_BYTES),
)
def test_in_whatever_pieces_it_comes(content: bytes, cut: int) -> None:
    salt = salt_of(KEY, hashlib.sha256(content).hexdigest(), len(content))

    def in_pieces(whole: bytes) -> list[bytes]:
        return [whole[i : i + cut] for i in range(0, len(whole), cut)]

    encrypted = b"".join(seal(in_pieces(content), KEY, salt))

    assert encrypted == sealed(content)
    assert b"".join(open_sealed(in_pieces(encrypted), KEY)) == content


def test_the_same_key_and_content_give_the_same_bytes_and_nothing_else_does() -> None:
    assert sealed(b"model") == sealed(b"model")
    assert sealed(b"model") != sealed(b"model", OTHER_KEY)
    # Another content has another salt, hence another key: no nonce is used for two contents.
    assert pieces(sealed(b"model"))[0] != pieces(sealed(b"Model"))[0]


def test_no_key_meets_a_nonce_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[tuple[bytes, bytes]] = set()
    contents = [b"", b"a", b"b", THREE_AND_A_BIT, THREE_AND_A_BIT[:-1], b"x" * SEGMENT_BYTES]

    class Watched:
        def __init__(self, key: bytes) -> None:
            self._key = key

        def encrypt(self, nonce: bytes, data: bytes, header: bytes) -> bytes:
            assert (self._key, nonce) not in seen
            seen.add((self._key, nonce))
            return AESGCM(self._key).encrypt(nonce, data, header)

    monkeypatch.setattr(sealing, "AESGCM", Watched)
    for content in contents:
        sealed(content)

    assert len(seen) == 4 + 4 + 4


def test_the_plaintext_is_nowhere_in_it() -> None:
    assert b"a bit" in THREE_AND_A_BIT
    assert b"a bit" not in sealed(THREE_AND_A_BIT)


class TestWhatDoesNotOpen:
    def refused(self, content: bytes, key: bytes = KEY) -> SealedDamaged:
        with pytest.raises(SealedDamaged) as caught:
            opened(content, key)
        assert caught.value.code == "E-SEALED"
        return caught.value

    def test_with_another_key(self) -> None:
        self.refused(sealed(b"model"), OTHER_KEY)

    def test_with_any_one_bit_changed(self) -> None:
        encrypted = sealed(b"weights")
        for place in range(len(encrypted)):
            for bit in (0x01, 0x80):
                changed = bytearray(encrypted)
                changed[place] ^= bit
                self.refused(bytes(changed))

    @pytest.mark.parametrize("count", [1, 15, 16, 17, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE])
    def test_cut_short_anywhere_even_between_segments(self, count: int) -> None:
        self.refused(sealed(THREE_AND_A_BIT)[:-count])

    def test_without_its_last_segment_or_its_last_two(self) -> None:
        for content in (THREE_AND_A_BIT, b"x" * 3 * SEGMENT_BYTES):
            header, segments = pieces(sealed(content))
            for left_out in (1, 2):
                self.refused(header + b"".join(segments[:-left_out]))

    def test_cut_inside_the_header_or_right_after_it(self) -> None:
        encrypted = sealed(THREE_AND_A_BIT)
        for length in (0, 1, HEADER_BYTES - 1, HEADER_BYTES):
            self.refused(encrypted[:length])

    def test_with_two_segments_exchanged(self) -> None:
        header, [first, second, *rest] = pieces(sealed(THREE_AND_A_BIT))
        self.refused(header + b"".join([second, first, *rest]))

    def test_with_a_segment_twice(self) -> None:
        header, [first, *rest] = pieces(sealed(THREE_AND_A_BIT))
        self.refused(header + b"".join([first, first, *rest]))

    def test_with_a_segment_left_out(self) -> None:
        header, [first, _, *rest] = pieces(sealed(THREE_AND_A_BIT))
        self.refused(header + b"".join([first, *rest]))

    @pytest.mark.parametrize("more", [b"\0", b"\0" * 16, b"\0" * PIECE])
    def test_with_something_behind_its_end(self, more: bytes) -> None:
        self.refused(sealed(THREE_AND_A_BIT) + more)
        self.refused(sealed(b"x" * SEGMENT_BYTES) + more)

    def test_with_its_last_segment_once_more(self) -> None:
        header, segments = pieces(sealed(b"x" * 2 * SEGMENT_BYTES))
        self.refused(header + b"".join([*segments, segments[-1]]))

    def test_with_segments_of_another_file_under_the_same_key(self) -> None:
        header, segments = pieces(sealed(b"a" * 2 * SEGMENT_BYTES))
        _, others = pieces(sealed(b"b" * 2 * SEGMENT_BYTES))
        self.refused(header + segments[0] + others[1])
        self.refused(header + b"".join(others))

    def test_with_another_version_or_size_of_segments_in_its_header(self) -> None:
        encrypted = sealed(b"model")
        self.refused(encrypted[:8] + b"\0\0\0\2" + encrypted[12:])
        self.refused(encrypted[:12] + (1 << 20).to_bytes(4, "big") + encrypted[16:])

    def test_a_plain_file(self) -> None:
        assert "does not begin like" in self.refused(THREE_AND_A_BIT).what

    def test_an_empty_last_segment_even_from_who_has_the_key(self) -> None:
        """So that one content has one encrypted form, also from a publisher with other tools."""
        content = b"x" * SEGMENT_BYTES
        header = sealed(content)[:HEADER_BYTES]
        stream = sealing._Stream.of(KEY, header)
        forged = header + stream.cipher.encrypt(stream.nonce(0, last=False), content, header)
        forged += stream.cipher.encrypt(stream.nonce(1, last=True), b"", header)
        assert "empty" in self.refused(forged).what

    def test_more_segments_than_a_nonce_can_count(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sealing, "SEGMENTS_MAX", 3)
        assert opened(sealed(b"x" * 3 * SEGMENT_BYTES))
        with pytest.raises(SealedDamaged):
            sealed(THREE_AND_A_BIT)


def test_nothing_of_a_damaged_segment_is_handed_out() -> None:
    encrypted = bytearray(sealed(THREE_AND_A_BIT))
    encrypted[HEADER_BYTES + PIECE + 5] ^= 1  # in the second of four

    handed_out = []
    with pytest.raises(SealedDamaged):
        handed_out.extend(open_sealed([bytes(encrypted)], KEY))

    assert b"".join(handed_out) == THREE_AND_A_BIT[:SEGMENT_BYTES]


def test_a_key_of_another_length_is_no_key() -> None:
    with pytest.raises(WrongContentKey):
        sealed(b"model", b"short")
    with pytest.raises(WrongContentKey):
        opened(sealed(b"model"), b"k" * 33)


def test_sealing_and_opening_need_little_memory_however_long_the_file() -> None:
    chunk, count = b"x" * (1 << 20), 24
    digest = hashlib.sha256(chunk * count).hexdigest()

    def chunks() -> Iterator[bytes]:
        yield from (chunk for _ in range(count))

    def through() -> Iterable[bytes]:
        return open_sealed(seal(chunks(), KEY, salt_of(KEY, digest, len(chunk) * count)), KEY)

    tracemalloc.start()
    try:
        length = sum(len(segment) for segment in through())
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert length == len(chunk) * count
    assert peak_bytes < 4 << 20

"""A backup's bytes: what comes out is what went in, and whatever was done to them is found."""

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailboat_controller.backup import sealed_stream
from mailboat_controller.backup.sealed_stream import BackupUnusable, SealedReader, SealedWriter

PASSPHRASE = b"a long passphrase"
CHUNK = 64


@pytest.fixture(autouse=True, scope="module")
def _small_and_quick() -> "pytest.MonkeyPatch":
    """Chunks of some bytes, and a key that takes no time."""
    patch = pytest.MonkeyPatch()
    patch.setattr(sealed_stream, "CHUNK_BYTES", CHUNK)
    patch.setattr(sealed_stream, "SCRYPT_N", 2)
    yield patch
    patch.undo()


def sealed(content: bytes, *, pieces: int = 7) -> bytes:
    file = io.BytesIO()
    with SealedWriter(file, PASSPHRASE) as writer:
        for at in range(0, len(content), pieces):
            writer.write(content[at : at + pieces])
    return file.getvalue()


def opened(content: bytes, passphrase: bytes = PASSPHRASE) -> bytes:
    return SealedReader(io.BytesIO(content), passphrase).readall() or b""


@pytest.mark.parametrize("length", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 1000])
def test_what_was_written_comes_back(length: int) -> None:
    content = bytes(range(256)) * 4

    assert opened(sealed(content[:length])) == content[:length]


@settings(max_examples=60)
@given(at=st.integers(0, 10_000), change=st.integers(1, 255))
def test_any_changed_byte_is_found(at: int, change: int) -> None:
    content = bytearray(sealed(b"x" * 200))
    content[at % len(content)] ^= change

    with pytest.raises(BackupUnusable):
        opened(bytes(content))


@settings(max_examples=60)
@given(end=st.integers(0, 10_000))
def test_a_backup_cut_off_anywhere_is_found(end: int) -> None:
    content = sealed(b"x" * 200)

    with pytest.raises(BackupUnusable):
        opened(content[: end % len(content)])


def test_a_backup_cut_off_right_behind_its_header_is_found() -> None:
    content = sealed(b"x" * 200)
    begins = content.index(b"\n", content.index(b"\n") + 1) + 1

    with pytest.raises(BackupUnusable):
        opened(content[:begins])


def test_chunks_in_another_order_or_twice_are_found() -> None:
    content = sealed(b"a" * CHUNK + b"b" * CHUNK + b"c")
    begins = content.index(b"\n", content.index(b"\n") + 1) + 1
    size = CHUNK + sealed_stream.TAG_BYTES
    head, one, two, rest = (
        content[:begins],
        content[begins : begins + size],
        content[begins + size : begins + 2 * size],
        content[begins + 2 * size :],
    )

    for other in (head + two + one + rest, head + one + one + two + rest, head + one + two):
        with pytest.raises(BackupUnusable):
            opened(other)


def test_another_passphrase_opens_nothing_and_says_so() -> None:
    with pytest.raises(BackupUnusable, match="passphrase is another one"):
        opened(sealed(b"secret"), b"another passphrase")


def test_a_short_passphrase_is_refused() -> None:
    with pytest.raises(BackupUnusable, match="12 bytes"):
        SealedWriter(io.BytesIO(), b"short")


@pytest.mark.parametrize(
    "content",
    [b"", b"mailboat-backup 2\n{}\n", b"mailboat-backup 1\n", b"mailboat-backup 1\n{}\n" * 2],
)
def test_what_is_no_backup_is_refused(content: bytes) -> None:
    with pytest.raises(BackupUnusable):
        opened(content)


def test_nothing_of_what_is_in_it_can_be_read() -> None:
    assert b"BEGIN PRIVATE KEY" not in sealed(b"-----BEGIN PRIVATE KEY-----" * 10)

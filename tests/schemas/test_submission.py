"""A submission may come as text, for clients that can send nothing else."""

import base64

import pytest

from mailboat_schemas.codec import encode
from mailboat_schemas.submission import Submission, submission_bytes

SMALL = encode(Submission(fleet="demo", roles={"release-vad": b"{}"}))
LARGE = encode(Submission(fleet="demo", roles={"release-vad": bytes(range(256)) * 40}))


@pytest.mark.parametrize("encoded", [SMALL, LARGE], ids=["plain", "compressed"])
def test_base64_is_read_as_the_bytes_it_stands_for(encoded: bytes) -> None:
    assert submission_bytes(base64.b64encode(encoded)) == encoded
    assert submission_bytes(base64.encodebytes(encoded)) == encoded  # with line ends


@pytest.mark.parametrize("encoded", [SMALL, LARGE], ids=["plain", "compressed"])
def test_encoded_bytes_are_never_taken_for_text(encoded: bytes) -> None:
    assert submission_bytes(encoded) == encoded


@pytest.mark.parametrize("message", [b"", b"hello", b"n\xc3\xb6", b"{}", b"KLUv/="])
def test_what_is_neither_stays_as_it_came(message: bytes) -> None:
    assert submission_bytes(message) == message

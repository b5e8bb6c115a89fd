"""Compressed bodies: gzip and deflate, as tritonclient offers them, bounded on unpacking.

On loopback compression costs more than it saves; it is for callers beyond it who ask.

Source: RFC 9110, 8.4 and 12.5.3; "deflate" is the zlib format there, not the bare stream.
"""

import zlib
from collections.abc import Mapping, Sequence

from mailboat_agent.serving.front.answers import Problem
from mailboat_agent.serving.tensors import Buffer

COMPRESS_BYTES_MIN = 1024  # a smaller answer fits in a packet as it is
_LEVEL = 1  # devices are slow, and tensors of floats hardly shrink
_WBITS = {"gzip": 31, "deflate": 15}


def coding_of(headers: Mapping[str, str]) -> str | None:
    """How a request's body is compressed; None where it is not.

    Raises:
        Problem: in a way that is not known here.
    """
    coding = headers.get("content-encoding", "identity").strip().lower()
    if coding == "identity":
        return None
    if coding not in _WBITS:
        raise Problem(
            415,
            f"A body with the content encoding {coding[:32]!r} cannot be read here.",
            {"accept-encoding": ", ".join(_WBITS)},
        )
    return coding


def unpack(body: Buffer, coding: str, bytes_max: int) -> bytes:
    """
    Raises:
        Problem: broken, cut short, followed by more, or too large; unpacking ends at the bound.
    """
    unpacker = zlib.decompressobj(_WBITS[coding])
    try:
        content = unpacker.decompress(body, bytes_max + 1)
    except zlib.error as error:
        raise Problem(400, f"The body is not {coding}: {error}.") from error
    if len(content) > bytes_max:
        raise Problem(413, f"A request may have {bytes_max} bytes once it is unpacked.")
    if not unpacker.eof or unpacker.unused_data:
        raise Problem(400, f"The body is not one whole {coding} stream.")
    return content


def wanted(headers: Mapping[str, str]) -> str | None:
    """The first of what the client names that we can do; None for plain."""
    for item in headers.get("accept-encoding", "").split(","):
        coding, _, weight = item.partition(";")
        if coding.strip().lower() in _WBITS and weight.replace(" ", "") not in ("q=0", "q=0.0"):
            return coding.strip().lower()
    return None


def pack(parts: Sequence[Buffer], coding: str) -> bytes:
    packer = zlib.compressobj(_LEVEL, wbits=_WBITS[coding])
    return b"".join([*map(packer.compress, parts), packer.flush()])

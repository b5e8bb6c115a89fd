"""HTTP/1.1 as bytes: the head of a request, a body in chunks, the head of an answer. Pure.

Strict where leniency is how one message is smuggled inside another: no bare LF, no folded lines, no
space before a colon, one length and of one kind.

Source: RFC 9112, "HTTP/1.1", sections 2 to 7.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import unquote

HEAD_BYTES_MAX = 16 << 10  # request line and headers
HEADERS_MAX = 64
CHUNK_LINE_BYTES_MAX = 256  # the size of a chunk, and extensions that nobody reads
TRAILER_BYTES_MAX = 4096
_LENGTH_DIGITS_MAX = 15

_REQUEST_LINE = re.compile(rb"([A-Z]{1,16}) (/[\x21-\x7e]*) HTTP/1\.([01])")
_FIELD = re.compile(
    rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([\x21-\x7e\x80-\xff][\t\x20-\x7e\x80-\xff]*)?"
)
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[\t\x20-\x7e]*)?")
_REASONS = {status.value: status.phrase for status in HTTPStatus}


class BadMessage(Exception):
    """Not HTTP, or more of it than we read; the connection cannot be used again."""

    def __init__(self, what: str, status: int = 400) -> None:
        super().__init__(what)
        self.status = status


@dataclass(frozen=True, slots=True)
class Head:
    """``path`` is decoded and without its query; names of ``headers`` are in lower case.

    ``length`` is that of the body in bytes; None says that it comes in chunks.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    length: int | None
    keep_alive: bool
    expects_continue: bool = False


def parse_head(head: bytes) -> Head:
    """Read request line and headers, without the empty line that ends them.

    Raises:
        BadMessage
    """
    first, *lines = head.split(b"\r\n")
    line = _REQUEST_LINE.fullmatch(first)
    if line is None:
        raise BadMessage("The request line is not HTTP/1.1.")
    method, target, minor = line.groups()
    headers = _fields(lines)
    modern = minor == b"1"
    if modern and "host" not in headers:
        raise BadMessage("A request of HTTP/1.1 has a Host header.")
    options = headers.get("connection", "").lower()
    return Head(
        method=method.decode(),
        path=_path(target),
        headers=headers,
        length=_length(headers, modern=modern),
        keep_alive="close" not in options if modern else "keep-alive" in options,
        expects_continue=modern and headers.get("expect", "").lower() == "100-continue",
    )


def _path(target: bytes) -> str:
    path = target.partition(b"?")[0].decode()
    return unquote(path) if "%" in path else path


def _fields(lines: list[bytes]) -> dict[str, str]:
    if len(lines) > HEADERS_MAX:
        raise BadMessage(f"A request may have {HEADERS_MAX} headers.", 431)
    headers: dict[str, str] = {}
    for line in lines:
        field = _FIELD.fullmatch(line)
        if field is None:
            raise BadMessage("A header is not of the form 'name: value'.")
        name = field[1].decode().lower()
        value = (field[2] or b"").decode("latin-1").rstrip(" \t")
        if name not in headers:
            headers[name] = value
        elif name in ("content-length", "transfer-encoding", "host", "content-encoding"):
            raise BadMessage(f"The header {name} is given twice.")
        else:
            headers[name] += f", {value}"
    return headers


def _length(headers: Mapping[str, str], *, modern: bool) -> int | None:
    coding, length = headers.get("transfer-encoding"), headers.get("content-length")
    if coding is not None:
        if not modern:
            raise BadMessage("A body in chunks is of HTTP/1.1.")
        if length is not None:
            raise BadMessage("A body has a length or comes in chunks, not both.")
        if coding.lower() != "chunked":
            raise BadMessage(f"The transfer encoding {coding[:32]!r} is not known here.", 501)
        return None
    if length is None:
        return 0
    if not (length.isascii() and length.isdigit() and len(length) <= _LENGTH_DIGITS_MAX):
        raise BadMessage("The content length is not a number.")
    return int(length)


class Chunks:
    """Takes a chunked body out of what arrives."""

    def __init__(self) -> None:
        self._missing = 0  # bytes of the present chunk, and of the line end behind it
        self._ended = False
        self._trailer_bytes = 0

    def take(self, arrived: bytearray, body: bytearray) -> bool:
        """Move what is there from ``arrived`` to ``body``; True once the body is whole.

        What follows the body stays in ``arrived``.

        Raises:
            BadMessage
        """
        while True:
            if self._missing > 2:
                count = min(self._missing - 2, len(arrived))
                with memoryview(arrived) as view:
                    body += view[:count]
                del arrived[:count]
                self._missing -= count
                if self._missing > 2:
                    return False
            if self._missing == 2:
                if len(arrived) < 2:
                    return False
                if arrived[:2] != b"\r\n":
                    raise BadMessage("A chunk is longer than it says.")
                del arrived[:2]
                self._missing = 0
            end = arrived.find(b"\r\n", 0, CHUNK_LINE_BYTES_MAX)
            if end < 0:
                if len(arrived) >= CHUNK_LINE_BYTES_MAX:
                    raise BadMessage("The size of a chunk does not end.")
                return False
            line = bytes(arrived[:end])
            del arrived[: end + 2]
            if self._ended:
                if not line:
                    return True
                self._skip_trailer(line)
            else:
                self._begin(line)

    def _begin(self, line: bytes) -> None:
        size = _CHUNK_LINE.fullmatch(line)
        if size is None:
            raise BadMessage("The size of a chunk is not a number.")
        count = int(size[1], 16)
        self._ended = count == 0
        self._missing = count + 2 if count else 0

    def _skip_trailer(self, line: bytes) -> None:
        self._trailer_bytes += len(line) + 2
        if self._trailer_bytes > TRAILER_BYTES_MAX:
            raise BadMessage("The headers behind the body do not end.", 431)


def encode_head(status: int, headers: Mapping[str, str], body_bytes: int) -> bytes:
    """Status line and headers, with the length of the body and the line that ends them."""
    lines = [f"HTTP/1.1 {status} {_REASONS.get(status, '')}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines.append(f"content-length: {body_bytes}\r\n\r\n")
    return "\r\n".join(lines).encode("latin-1", "replace")

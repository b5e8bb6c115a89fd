import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailboat_agent.serving.front.http_message import (
    CHUNK_LINE_BYTES_MAX,
    HEADERS_MAX,
    TRAILER_BYTES_MAX,
    BadMessage,
    Chunks,
    encode_head,
    parse_head,
)

LINE = b"POST /v2/models/m/infer?verbose=1 HTTP/1.1\r\nHost: a\r\n"


def test_a_head_is_read_as_it_is_meant() -> None:
    head = parse_head(LINE + b"Content-Length: 12\r\nX-Many:  a \r\nx-many: b\r\nX-Empty:")

    assert (head.method, head.path, head.length) == ("POST", "/v2/models/m/infer", 12)
    assert head.headers["x-many"] == "a, b"
    assert head.headers["x-empty"] == ""
    assert head.keep_alive


@pytest.mark.parametrize(
    ("line", "connection", "stays"),
    [
        ("1.1", "", True),
        ("1.1", "connection: close", False),
        ("1.0", "", False),
        ("1.0", "connection: Keep-Alive", True),
    ],
)
def test_whether_a_connection_stays_is_the_clients_word(
    line: str, connection: str, stays: bool
) -> None:
    lines = [f"GET / HTTP/{line}", "host: a", *filter(None, [connection])]

    assert parse_head("\r\n".join(lines).encode()).keep_alive is stays


def test_a_path_is_decoded_once() -> None:
    assert parse_head(b"GET /v2/models/a%2520b HTTP/1.1\r\nhost: a").path == "/v2/models/a%20b"


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"PRI * HTTP/2.0",
        b"GET / HTTP/2.0\r\nhost: a",
        b"GET http://a/ HTTP/1.1\r\nhost: a",
        b"GET /a b HTTP/1.1\r\nhost: a",
        b"get / HTTP/1.1\r\nhost: a",
        b"GET / HTTP/1.1",  # no host
        b"GET / HTTP/1.1\nhost: a",
        b"GET / HTTP/1.1\r\nhost: a\nx: b",
        LINE + b"x : 1",
        LINE + b" folded",
        LINE + b"x",
        LINE + b": 1",
        LINE + b"x: a\0b",
        LINE + b"host: b",
        LINE + b"content-length: -1",
        LINE + b"content-length: +1",
        LINE + b"content-length: 1_0",
        LINE + b"content-length: 1, 1",
        LINE + b"content-length:",
        LINE + "content-length: ²".encode(),
        LINE + b"content-length: " + b"9" * 16,
        LINE + b"content-length: 1\r\ncontent-length: 1",
        LINE + b"content-length: 1\r\ntransfer-encoding: chunked",
        LINE + b"transfer-encoding: gzip, chunked",
        b"POST / HTTP/1.0\r\ntransfer-encoding: chunked",
        LINE + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked",
        LINE + b"\r\n".join(b"x%d: 1" % n for n in range(HEADERS_MAX)),
    ],
)
def test_what_two_readers_could_read_differently_is_refused(head: bytes) -> None:
    with pytest.raises(BadMessage):
        parse_head(head)


@given(st.binary(max_size=100))
def test_no_bytes_do_more_than_be_refused(tail: bytes) -> None:
    for head in (tail, LINE + tail):
        try:
            parse_head(head)
        except BadMessage:
            continue


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=5), st.integers(1, 30))
def test_chunks_become_the_body_however_they_arrive(parts: list[bytes], step: int) -> None:
    message = b"".join(b"%X;x=1\r\n%s\r\n" % (len(part), part) for part in parts)
    message += b"0\r\ntrailer: 1\r\n\r\n"
    arrived, body, chunks = bytearray(), bytearray(), Chunks()
    whole = False
    for start in range(0, len(message), step):
        assert not whole
        arrived += message[start : start + step]
        if start + step >= len(message):
            arrived += b"NEXT"
        whole = chunks.take(arrived, body)

    assert whole
    assert body == b"".join(parts)
    assert arrived == b"NEXT"


@pytest.mark.parametrize(
    "message",
    [
        b"x\r\n",
        b"-1\r\n",
        b"+1\r\n",
        b"0x1\r\n",
        b"\r\n",
        b"1_0\r\n",
        b"123456789\r\n",
        b"2\r\nabc\r\n",
        b"2\r\nab\n\r\n",
        b"1" * CHUNK_LINE_BYTES_MAX,
        b"0\r\n" + b"x: 1\r\n" * (TRAILER_BYTES_MAX // 6 + 1),
    ],
)
def test_bad_chunks_are_refused(message: bytes) -> None:
    with pytest.raises(BadMessage):
        Chunks().take(bytearray(message), bytearray())


def test_an_answer_has_its_length() -> None:
    assert encode_head(503, {"retry-after": "1"}, 7) == (
        b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 7\r\n\r\n"
    )

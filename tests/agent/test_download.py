"""Downloads against a real HTTPS server that misbehaves in every way a network has to offer."""

import asyncio
import hashlib
import os
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mailboat_agent.artifacts.download import (
    CONTENT_KEY_BYTES_MAX,
    HttpsSource,
)
from mailboat_agent.artifacts.https_connection import (
    LOCATION_CHARS_MAX,
    PROBLEM_BYTES_MAX,
    HttpsConnection,
)
from mailboat_agent.artifacts.part_file import READ_BYTES, Hashed, PartFile
from mailboat_agent.artifacts.refusals import RETRY_AFTER_SECONDS_MAX
from mailboat_agent.atomic_file import DiskFailing
from mailboat_agent.identity.device_key import tls_context
from mailboat_agent.identity.registration import Registration
from mailboat_controller.pki.issuing import Authority
from mailboat_schemas.desired import ManifestBundle
from mailboat_schemas.enrolment import EnrolmentRequest, EnrolmentResponse
from mailboat_schemas.errors import (
    ArtifactMissing,
    ConfigurationInvalid,
    Conflict,
    DownloadInterrupted,
    MailboatError,
    MalformedPayload,
    NotPermitted,
    PayloadTooLarge,
    ServerUnavailable,
)
from rogue_server import (
    CONTENT,
    DIGEST,
    Handler,
    Request,
    Server,
    answering,
    certificates_in,
    endless,
    honest,
    send,
)
from small_disk import run_on_small_disk


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    return certificates_in(tmp_path_factory.mktemp("rogue"))


@pytest.fixture
def server(certificates: tuple[ssl.SSLContext, ssl.SSLContext]) -> Server:
    return Server(*certificates)


@pytest.fixture
def part(tmp_path: Path) -> Path:
    return tmp_path / f"{DIGEST}.part"


def fetch(
    server: Server,
    handler: Handler,
    part: Path,
    on_progress: Callable[[int], None] | None = None,
    **limits: float,
) -> Hashed:
    async def run() -> Hashed:
        async with server.source(handler, **limits) as source:
            return await source.fetch_artifact(DIGEST, len(CONTENT), part, on_progress)

    return asyncio.run(run())


# --- artifacts ------------------------------------------------------------------------------------


def test_a_file_arrives_whole_and_progress_is_told(server: Server, part: Path) -> None:
    progress: list[int] = []

    fetch(server, honest, part, progress.append)

    assert part.read_bytes() == CONTENT
    assert progress[-1] == len(CONTENT)
    assert progress == sorted(progress)
    assert server.requests[0].line == f"GET /v1/artifacts/sha256/{DIGEST} HTTP/1.1"
    assert "range" not in server.requests[0].headers
    assert server.requests[0].headers["accept-encoding"] == "identity"


def test_a_part_is_resumed_where_it_stopped(server: Server, part: Path) -> None:
    part.write_bytes(CONTENT[:150_000])

    fetch(server, honest, part)

    assert part.read_bytes() == CONTENT
    assert server.requests[0].headers["range"] == "bytes=150000-"
    assert server.requests[0].headers["if-range"] == f'"{DIGEST}"'


def test_the_hash_runs_along_and_covers_what_an_earlier_attempt_left(
    server: Server, part: Path
) -> None:
    assert fetch(server, honest, part).sha256 == DIGEST

    part.write_bytes(CONTENT[:150_000])
    assert fetch(server, honest, part).sha256 == DIGEST

    part.write_bytes(b"?" + CONTENT[1:150_000])
    assert fetch(server, honest, part).sha256 != DIGEST


def test_a_server_that_starts_over_starts_the_hash_over(server: Server, part: Path) -> None:
    part.write_bytes(CONTENT[:100_000])

    assert fetch(server, answering("200 OK", CONTENT), part).sha256 == DIGEST


def test_a_whole_part_is_not_asked_for_again(server: Server, part: Path) -> None:
    part.write_bytes(CONTENT)

    fetch(server, honest, part)

    assert server.requests == []


def test_a_server_that_does_not_resume_starts_the_file_over(server: Server, part: Path) -> None:
    part.write_bytes(b"something else" * 10)

    fetch(server, answering("200 OK", CONTENT), part)

    assert part.read_bytes() == CONTENT


def test_a_part_that_is_too_long_is_thrown_away(server: Server, part: Path) -> None:
    part.write_bytes(CONTENT + b"x")

    fetch(server, honest, part)

    assert part.read_bytes() == CONTENT
    assert "range" not in server.requests[0].headers


@pytest.mark.parametrize(
    "place",
    [None, "bytes 0-199999/200000", "bytes 100000-199999/200001", "bytes 100000-150000/200000"],
)
def test_bytes_from_another_place_than_asked_are_not_appended(
    server: Server, part: Path, place: str | None
) -> None:
    part.write_bytes(CONTENT[:100_000])

    with pytest.raises(DownloadInterrupted):
        fetch(
            server, answering("206 Partial Content", CONTENT[100_000:], Content_Range=place), part
        )

    assert part.read_bytes() == b""  # the next attempt starts over


def test_a_range_the_server_does_not_have_starts_over_next_time(server: Server, part: Path) -> None:
    part.write_bytes(CONTENT[:100_000])

    with pytest.raises(DownloadInterrupted):
        fetch(server, answering("416 Range Not Satisfiable"), part)

    assert part.read_bytes() == b""


def test_what_arrived_before_a_cut_is_kept_and_the_rest_comes_next_time(
    server: Server, part: Path
) -> None:
    cut = answering("200 OK", CONTENT[:120_000], Content_Length=len(CONTENT))

    with pytest.raises(DownloadInterrupted):
        fetch(server, cut, part)
    kept = part.stat().st_size
    fetch(server, honest, part)

    assert 0 < kept <= 120_000
    assert part.read_bytes() == CONTENT
    assert server.requests[1].headers["range"] == f"bytes={kept}-"


@pytest.mark.parametrize("announced", [len(CONTENT) + 1, 1 << 40])
def test_an_announcement_of_too_much_is_refused_before_the_first_byte(
    server: Server, part: Path, announced: int
) -> None:
    with pytest.raises(DownloadInterrupted, match="too many"):
        fetch(server, answering("200 OK", CONTENT, Content_Length=announced), part)

    assert part.stat().st_size == 0


def test_an_endless_body_is_cut_and_never_more_than_the_length_is_on_disk(
    server: Server, part: Path
) -> None:
    sizes: list[int] = []

    with pytest.raises(DownloadInterrupted, match="more than the 200000 bytes"):
        fetch(server, endless, part, sizes.append)

    assert max(sizes) <= len(CONTENT)
    assert part.stat().st_size == 0


def test_a_body_that_ends_early_without_saying_its_length_is_not_taken_for_whole(
    server: Server, part: Path
) -> None:
    with pytest.raises(DownloadInterrupted, match="150000 of 200000"):
        fetch(server, answering("200 OK", CONTENT[:150_000], Content_Length=None), part)

    assert part.stat().st_size == 150_000


def test_a_drip_is_cut_by_the_minimum_rate(server: Server, part: Path) -> None:
    """Each byte arrives well within any read timeout."""

    async def drip(request: Request, writer: asyncio.StreamWriter) -> None:
        await send(writer, "200 OK", Content_Length=len(CONTENT))
        for byte in CONTENT:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.02)

    started = time.monotonic()
    with pytest.raises(DownloadInterrupted, match="too slow"):
        fetch(server, drip, part, rate_min_bytes_per_second=100_000, rate_window_seconds=0.3)

    assert time.monotonic() - started < 20
    assert part.stat().st_size > 0


def test_an_address_to_go_to_that_is_longer_than_any_is_none() -> None:
    """Whoever answers names it; every byte of it would be sent on."""
    begin = "https://127.0.0.1:1/"

    async def told(length: int) -> str:
        trusted = ssl.create_default_context()
        controller = HttpsConnection(
            "https://127.0.0.1:1", trusted, connect_seconds=5, silence_seconds=5
        )
        try:
            with pytest.raises((DownloadInterrupted, ServerUnavailable)) as refused:
                async with controller.elsewhere(begin.ljust(length, "a"), trusted, {}):
                    raise AssertionError("nobody listens there")
        finally:
            await controller.close()
        return refused.value.what

    assert "names no https address" not in asyncio.run(told(LOCATION_CHARS_MAX))
    assert "names no https address" in asyncio.run(told(LOCATION_CHARS_MAX + 1))


def test_a_server_that_falls_silent_is_cut(server: Server, part: Path) -> None:
    async def silent(request: Request, writer: asyncio.StreamWriter) -> None:
        await send(writer, "200 OK", CONTENT[:1000], Content_Length=len(CONTENT))
        await asyncio.sleep(60)

    started = time.monotonic()
    with pytest.raises(DownloadInterrupted):
        fetch(server, silent, part, rate_window_seconds=0.3)

    assert time.monotonic() - started < 20
    assert part.stat().st_size == 1000


def test_a_fast_enough_but_too_long_transfer_ends_at_the_deadline(
    server: Server, part: Path
) -> None:
    async def steady(request: Request, writer: asyncio.StreamWriter) -> None:
        await send(writer, "200 OK", Content_Length=len(CONTENT))
        for _ in range(100):
            writer.write(bytes(500))
            await writer.drain()
            await asyncio.sleep(0.05)

    with pytest.raises(DownloadInterrupted, match="too slow"):
        fetch(
            server, steady, part,
            rate_min_bytes_per_second=1_000_000, rate_window_seconds=30, deadline_seconds_min=0.4,
        )  # fmt: skip


def test_steady_progress_renews_the_window(server: Server, part: Path) -> None:
    async def steady(request: Request, writer: asyncio.StreamWriter) -> None:
        await send(writer, "200 OK", Content_Length=len(CONTENT))
        for start in range(0, len(CONTENT), 20_000):
            writer.write(CONTENT[start : start + 20_000])
            await writer.drain()
            await asyncio.sleep(0.12)

    fetch(server, steady, part, rate_min_bytes_per_second=10_000, rate_window_seconds=1.0)

    assert part.read_bytes() == CONTENT


def test_a_server_that_never_answers_is_given_up(server: Server, part: Path) -> None:
    async def mute(request: Request, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    started = time.monotonic()
    with pytest.raises(DownloadInterrupted):
        fetch(server, mute, part, rate_window_seconds=0.3)

    assert time.monotonic() - started < 20


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("404 Not Found", ArtifactMissing),
        ("410 Gone", ArtifactMissing),
        ("401 Unauthorized", NotPermitted),
        ("403 Forbidden", NotPermitted),
        ("500 Internal Server Error", ServerUnavailable),
        ("503 Service Unavailable", ServerUnavailable),
        ("429 Too Many Requests", ServerUnavailable),
        ("302 Found", ServerUnavailable),
    ],
)
def test_every_refusal_says_what_happens_next_and_leaves_the_part_alone(
    server: Server, part: Path, status: str, expected: type[MailboatError]
) -> None:
    part.write_bytes(CONTENT[:1000])

    with pytest.raises(expected):
        fetch(server, answering(status, b"because", Location="/elsewhere"), part)

    assert part.read_bytes() == CONTENT[:1000]
    assert len(server.requests) == 1


@pytest.mark.parametrize("over", [0, 1])
def test_a_refusal_that_goes_on_and_on_is_not_read_to_its_end(
    server: Server, part: Path, over: int
) -> None:
    said = b"because".rjust(PROBLEM_BYTES_MAX + over)

    with pytest.raises(MailboatError) as refused:
        fetch(server, answering("403 Forbidden", said), part)

    assert ("because" in refused.value.what) is not bool(over)


@pytest.mark.parametrize(
    ("said", "understood"),
    [
        ("120", timedelta(seconds=120)),
        ("9" * 30, timedelta(seconds=RETRY_AFTER_SECONDS_MAX)),
        ("Wed, 21 Oct 2099 07:28:00 GMT", None),
        ("-5", None),
        (None, None),
    ],
)
def test_a_busy_server_may_say_when_to_come_back(
    server: Server, part: Path, said: str | None, understood: timedelta | None
) -> None:
    with pytest.raises(ServerUnavailable) as raised:
        fetch(server, answering("503 Service Unavailable", Retry_After=said), part)

    assert raised.value.retry_after == understood


def test_encoded_content_is_refused(server: Server, part: Path) -> None:
    with pytest.raises(DownloadInterrupted, match="encoded"):
        fetch(server, answering("200 OK", CONTENT, Content_Encoding="gzip"), part)

    assert part.stat().st_size == 0


def test_nobody_at_the_other_end_is_a_server_unavailable(
    certificates: tuple[ssl.SSLContext, ssl.SSLContext], part: Path
) -> None:
    async def run() -> None:
        source = HttpsSource("https://localhost:1", certificates[1])
        try:
            await source.fetch_artifact(DIGEST, len(CONTENT), part)
        finally:
            await source.close()

    with pytest.raises(ServerUnavailable):
        asyncio.run(run())


def test_a_server_with_another_ca_is_not_talked_to(
    server: Server, part: Path, tmp_path: Path
) -> None:
    stranger = Authority.create(tmp_path / "stranger", "other", now=datetime.now(UTC))
    server.trusted = tls_context(stranger.ca_path)

    with pytest.raises(ServerUnavailable, match="certificate"):
        fetch(server, honest, part)

    assert server.requests == []


def test_a_link_in_place_of_the_part_is_not_written_through(
    server: Server, part: Path, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").write_bytes(b"untouched")
    part.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(DiskFailing):
        fetch(server, honest, part)

    assert (tmp_path / "elsewhere").read_bytes() == b"untouched"


@pytest.mark.parametrize(
    "url", ["http://localhost:8443", "localhost", "", "https://", "https://host:port"]
)
def test_only_https_urls_are_taken(
    certificates: tuple[ssl.SSLContext, ssl.SSLContext], url: str
) -> None:
    with pytest.raises(ConfigurationInvalid):
        HttpsSource(url, certificates[1])


def test_a_full_disk_keeps_the_part_and_says_so(tmp_path: Path) -> None:
    run_on_small_disk(
        tmp_path / "disk",
        1 << 20,
        """
        from mailboat_agent.atomic_file import disk_errors
        from mailboat_agent.artifacts.part_file import PartFile
        from mailboat_schemas.errors import DiskFull

        part = PartFile(DISK / "part", 9 << 20)
        try:
            with disk_errors("writing a download"):
                while True:
                    part.append(bytes(100_000))
        except DiskFull:
            pass
        assert part.size_bytes == (DISK / "part").stat().st_size == 1 << 20, part.size_bytes
        """,
    )


# --- documents ------------------------------------------------------------------------------------


def get_manifest(server: Server, handler: Handler, etag: str | None) -> tuple[bytes, str] | None:
    async def run() -> tuple[bytes, str] | None:
        async with server.source(handler) as source:
            return await source.get_manifest("kiosk-x86", etag)

    return asyncio.run(run())


def test_a_manifest_comes_with_its_etag(server: Server) -> None:
    answer = get_manifest(server, answering("200 OK", b"bundle", ETag='"7"'), None)

    assert answer == (b"bundle", '"7"')
    assert server.requests[0].line == "GET /v1/manifests/kiosk-x86 HTTP/1.1"
    assert "if-none-match" not in server.requests[0].headers


def test_an_unchanged_manifest_is_none(server: Server) -> None:
    assert get_manifest(server, answering("304 Not Modified"), '"7"') is None
    assert server.requests[0].headers["if-none-match"] == '"7"'


def test_a_manifest_is_bounded_while_it_is_read(server: Server) -> None:
    largest = bytes(ManifestBundle.wire_bytes_max)
    assert get_manifest(server, answering("200 OK", largest), None) == (largest, "")

    with pytest.raises(PayloadTooLarge):
        get_manifest(server, answering("200 OK", largest + b"x"), None)
    with pytest.raises(PayloadTooLarge):
        get_manifest(server, endless, None)


@pytest.mark.parametrize("size_bytes", [CONTENT_KEY_BYTES_MAX, CONTENT_KEY_BYTES_MAX + 1])
def test_a_content_key_is_bounded_while_it_is_read(server: Server, size_bytes: int) -> None:
    async def run() -> None:
        async with server.source(answering("200 OK", bytes(size_bytes))) as source:
            await source.fetch_content_key("0" * 32)

    at_the_bound = size_bytes == CONTENT_KEY_BYTES_MAX  # read, and no key
    with pytest.raises(MalformedPayload) as refused:
        asyncio.run(run())
    assert isinstance(refused.value, PayloadTooLarge) is not at_the_bound


def test_a_class_without_a_manifest_is_not_an_error_for_ever(server: Server) -> None:
    with pytest.raises(ArtifactMissing):
        get_manifest(server, answering("404 Not Found"), None)


REQUEST = EnrolmentRequest(token="t" * 30, device="kiosk-7", certificate_request="PEM")
RESPONSE = EnrolmentResponse(
    device="kiosk-7", enrolment_number=42, hardware_class="kiosk-x86", site="-", certificate="PEM"
)


def enrol(server: Server, handler: Handler) -> EnrolmentResponse:
    async def run() -> EnrolmentResponse:
        async with server.source(handler) as source:
            answer = await Registration(source).enrol(REQUEST)
            assert isinstance(answer, EnrolmentResponse)
            return answer

    return asyncio.run(run())


def test_enrolling_trades_the_token_for_a_certificate(server: Server) -> None:
    response = enrol(server, answering("201 Created", RESPONSE.model_dump_json().encode()))

    assert response == RESPONSE
    assert server.requests[0].line == "POST /v1/enrol HTTP/1.1"
    assert EnrolmentRequest.model_validate_json(server.requests[0].body) == REQUEST


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("403 Forbidden", NotPermitted),
        ("409 Conflict", Conflict),
        ("422 Unprocessable Entity", ConfigurationInvalid),
        ("503 Service Unavailable", ServerUnavailable),
    ],
)
def test_a_refused_enrolment_repeats_what_the_controller_said_but_not_the_token(
    server: Server, status: str, expected: type[MailboatError]
) -> None:
    with pytest.raises(expected) as raised:
        enrol(server, answering(status, b'{"detail": "the token is spent"}'))

    assert "the token is spent" in raised.value.what
    assert "t" * 30 not in str(raised.value)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"\xff",
        RESPONSE.model_copy(update={"device": "other"}).model_dump_json().encode(),
    ],
)
def test_an_answer_that_is_no_enrolment_of_this_device_is_refused(
    server: Server, body: bytes
) -> None:
    with pytest.raises(MalformedPayload):
        enrol(server, answering("200 OK", body))


def test_hashing_what_is_here_ends_with_the_download_and_touches_no_other_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever gives it up closes the file, and the next that is opened gets its number."""
    (tmp_path / "part").write_bytes(bytes(3 * READ_BYTES))
    other = tmp_path / "other"
    other.write_bytes(bytes(3 * READ_BYTES))
    part = PartFile(tmp_path / "part", 4 * READ_BYTES)
    hashlib_sha256, taken = hashlib.sha256, []

    class Closing:
        def __init__(self) -> None:
            self._hash = hashlib_sha256()

        def update(self, chunk: bytes) -> None:
            self._hash.update(chunk)
            if not taken:
                part.close()
                taken.append(os.open(other, os.O_RDONLY))

    monkeypatch.setattr(hashlib, "sha256", Closing)
    with suppress(OSError):
        part.hash_what_is_there()

    assert os.lseek(taken[0], 0, os.SEEK_CUR) == 0
    os.close(taken[0])

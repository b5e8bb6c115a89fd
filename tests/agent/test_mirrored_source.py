"""A file from caches, an object store and the controller, of which all but the last may lie."""

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest

from mailboat_agent.artifacts import https_connection
from mailboat_agent.artifacts.arrivals import Arrivals
from mailboat_agent.artifacts.download import HttpsSource, open_part
from mailboat_agent.artifacts.mirrored_source import MirroredSource
from mailboat_agent.artifacts.mirrors import STRIKE_SECONDS_MAX
from mailboat_agent.artifacts.pace import Pace
from mailboat_agent.artifacts.part_file import Hashed
from mailboat_agent.artifacts.refusals import ServerBusy
from mailboat_schemas.deltas import Source
from mailboat_schemas.errors import (
    ArtifactMissing,
    DownloadInterrupted,
    MailboatError,
    NotPermitted,
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

IMPATIENT = {"rate_window_seconds": 0.3, "deadline_seconds_min": 2.0}
SIZE = len(CONTENT)
WRONG = bytes(SIZE)


@dataclass
class Road:
    """A device's way to the controller, with caches before it. Each is a server of its own."""

    certificates: tuple[ssl.SSLContext, ssl.SSLContext]
    part: Path
    arrivals: Arrivals = field(default_factory=Arrivals)
    caches: list[Server] = field(default_factory=list)
    controller: Server = field(init=False)
    source: MirroredSource = field(init=False)

    @asynccontextmanager
    async def open(
        self, *caches: Handler, controller: Handler = honest, store: ssl.SSLContext | None = None
    ) -> AsyncIterator["Road"]:
        async with AsyncExitStack() as stack:
            self.controller = Server(*self.certificates)
            last = await stack.enter_async_context(self.controller.source(controller, **IMPATIENT))
            found: list[HttpsSource] = []
            for handler in caches:
                server = Server(*self.certificates)
                self.caches.append(server)
                source = await stack.enter_async_context(server.source(handler, **IMPATIENT))
                source.source, source.name = Source.SITE_CACHE, f"cache {len(found)}"
                found.append(source)
            self.source = MirroredSource(
                controller=lambda: last,
                caches=lambda: found,
                cache_names=[source.name for source in found],
                object_store=None if store is None else lambda: store,
                rng=random.Random(1),
            )
            yield self

    async def fetch(self) -> Hashed:
        return await self.source.fetch_artifact(DIGEST, SIZE, self.part, None, self.arrivals)

    def asked(self) -> list[int]:
        """How often each cache was asked, and the controller."""
        return [len(each.requests) for each in (*self.caches, self.controller)]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    return certificates_in(tmp_path_factory.mktemp("rogue"))


@pytest.fixture
def road(certificates: tuple[ssl.SSLContext, ssl.SSLContext], tmp_path: Path) -> Road:
    return Road(certificates, tmp_path / f"{DIGEST}.part")


Story = Callable[[], Coroutine[None, None, None]]


def play(story: Story) -> None:
    asyncio.run(story())


def bytes_of(road: Road) -> dict[Source, int]:
    return road.arrivals.source_bytes


# --- in order -----------------------------------------------------------------------------------


def test_the_first_cache_is_asked_and_nobody_else(road: Road) -> None:
    async def story() -> None:
        async with road.open(honest, honest):
            assert (await road.fetch()).sha256 == DIGEST
        assert road.asked() == [1, 0, 0]
        assert bytes_of(road) == {Source.SITE_CACHE: SIZE}

    play(story)


def test_without_mirrors_the_controller_is_all_there_is(road: Road) -> None:
    async def story() -> None:
        async with road.open():
            assert (await road.fetch()).sha256 == DIGEST
        assert "mailboat-accept-redirect" not in road.controller.requests[0].headers

    play(story)


async def half(request: Request, writer: asyncio.StreamWriter) -> None:
    """Closes half way, and has nothing for whoever comes back."""
    if "range" in request.headers:
        await send(writer, "404 Not Found")
    else:
        await send(writer, "200 OK", CONTENT[: SIZE // 2], Content_Length=SIZE)


async def longer(request: Request, writer: asyncio.StreamWriter) -> None:
    await send(writer, "200 OK", CONTENT + b"!", Content_Length=None)


async def elsewhere_in_the_file(request: Request, writer: asyncio.StreamWriter) -> None:
    place = f"bytes 5-{SIZE - 1}/{SIZE}"
    await send(writer, "206 Partial Content", CONTENT[5:], Content_Range=place)


async def drip(request: Request, writer: asyncio.StreamWriter) -> None:
    await send(writer, "200 OK", Content_Length=SIZE)
    for byte in CONTENT:
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0.05)


async def mute(request: Request, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(30)


BAD = {
    "404": answering("404 Not Found"),
    "403": answering("403 Forbidden"),
    "500": answering("500 Internal Server Error"),
    "wrong bytes": answering("200 OK", WRONG),
    "too short": answering("200 OK", CONTENT[:-1]),
    "announces too much": answering("200 OK", CONTENT, Content_Length=SIZE * 2),
    "too long": longer,
    "never ends": endless,
    "another place": elsewhere_in_the_file,
    "half": half,
    "drip": drip,
    "mute": mute,
    "encoded": answering("200 OK", CONTENT, Content_Encoding="gzip"),
    "redirect": answering("307 Temporary Redirect", Location="https://localhost:1/"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_cache_never_keeps_the_file_away(road: Road, name: str) -> None:
    async def story() -> None:
        async with road.open(BAD[name]):
            assert (await road.fetch()).sha256 == DIGEST
            assert road.part.read_bytes() == CONTENT
            asked = len(road.caches[0].requests)
            road.part.unlink()
            assert (await road.fetch()).sha256 == DIGEST
            assert len(road.caches[0].requests) == asked, "it is left alone for a while"

    play(story)


def test_what_a_cut_cache_has_brought_is_kept(road: Road) -> None:
    async def story() -> None:
        async with road.open(half):
            await road.fetch()
        assert road.controller.requests[0].headers["range"] == f"bytes={SIZE // 2}-"
        assert bytes_of(road) == {
            Source.SITE_CACHE: SIZE // 2,
            Source.CONTROLLER: SIZE - SIZE // 2,
        }

    play(story)


def test_a_cache_that_cannot_resume_does_not_cost_what_is_here(road: Road) -> None:
    async def story() -> None:
        road.part.write_bytes(CONTENT[:150_000])
        async with road.open(answering("200 OK", CONTENT)):
            assert (await road.fetch()).sha256 == DIGEST
        assert bytes_of(road) == {Source.CONTROLLER: SIZE - 150_000}

    play(story)


def test_the_rest_of_another_file_under_the_right_etag_is_found_out(road: Road) -> None:
    async def another(request: Request, writer: asyncio.StreamWriter) -> None:
        start = int(request.headers["range"][6:-1])
        place = f"bytes {start}-{SIZE - 1}/{SIZE}"
        rest = WRONG[start:]
        named = {"Content_Range": place, "ETag": request.headers["if-range"]}
        await send(writer, "206 Partial Content", rest, **named)

    async def story() -> None:
        road.part.write_bytes(CONTENT[:150_000])
        async with road.open(another):
            assert (await road.fetch()).sha256 == DIGEST
        assert road.asked() == [1, 1]

    play(story)


def test_half_of_a_file_from_a_liar_is_found_out_at_the_end(road: Road) -> None:
    """The lie lies in the first half, and an honest server brings the second."""

    async def lying_half(request: Request, writer: asyncio.StreamWriter) -> None:
        if "range" in request.headers:
            await send(writer, "404 Not Found")
        else:
            await send(writer, "200 OK", WRONG[: SIZE // 2], Content_Length=SIZE)

    async def story() -> None:
        async with road.open(lying_half):
            assert (await road.fetch()).sha256 == DIGEST
            assert road.part.read_bytes() == CONTENT
        assert road.asked() == [2, 2]
        assert road.arrivals.retried == 1

    play(story)


def test_a_part_that_somebody_poisoned_before_the_restart_is_found_out(road: Road) -> None:
    async def story() -> None:
        road.part.write_bytes(WRONG[:100_000])
        async with road.open(honest):
            assert (await road.fetch()).sha256 == DIGEST
        # Nobody knows whose they were, so the next hour belongs to the controller.
        assert road.asked() == [1, 1]

    play(story)


def test_only_the_controller_can_have_the_device_believe_that_the_bytes_are_wrong(
    road: Road,
) -> None:
    async def story() -> None:
        async with road.open(answering("200 OK", WRONG), controller=answering("200 OK", WRONG)):
            assert (await road.fetch()).sha256 != DIGEST
        assert road.asked() == [1, 1]

    play(story)


@pytest.mark.parametrize(
    ("status", "expected"),
    [("404 Not Found", ArtifactMissing), ("403 Forbidden", NotPermitted)],
)
def test_what_the_controller_says_is_the_last_word(
    road: Road, status: str, expected: type[MailboatError]
) -> None:
    async def story() -> None:
        async with road.open(answering("404 Not Found"), controller=answering(status)):
            with pytest.raises(expected):
                await road.fetch()

    play(story)


# --- bad links ----------------------------------------------------------------------------------


def cutting_after(size_bytes: int) -> Handler:
    async def handler(request: Request, writer: asyncio.StreamWriter) -> None:
        start = int(request.headers.get("range", "bytes=0-")[6:-1])
        status, place = "200 OK", None
        if start:
            status = "206 Partial Content"
            place = f"bytes {start}-{SIZE - 1}/{SIZE}"
        body = CONTENT[start : start + size_bytes]
        await send(writer, status, body, Content_Range=place, Content_Length=SIZE - start)

    return handler


def test_a_link_that_is_cut_again_and_again_sends_every_byte_once(road: Road) -> None:
    async def story() -> None:
        async with road.open(controller=cutting_after(60_000)):
            road.source._rng = random.Random(3)
            assert (await road.fetch()).sha256 == DIGEST
        assert road.asked() == [4]
        assert bytes_of(road) == {Source.CONTROLLER: SIZE}
        assert road.arrivals.resumed == 3

    play(story)


def test_a_server_that_brings_next_to_nothing_each_time_is_given_up(road: Road) -> None:
    async def story() -> None:
        async with road.open(controller=cutting_after(100)):
            with pytest.raises(DownloadInterrupted):
                await road.fetch()
        assert road.asked() == [1]

    play(story)


# --- back-pressure --------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["503 Service Unavailable", "429 Too Many Requests"])
def test_a_controller_that_asks_to_wait_is_waited_for(road: Road, status: str) -> None:
    async def story() -> None:
        async with road.open(controller=answering(status, Retry_After=40)):
            with pytest.raises(ServerBusy) as busy:
                await road.fetch()
        assert busy.value.retry_after == timedelta(seconds=40)
        assert busy.value.what == "the controller asks to wait 40 s"

    play(story)


def test_a_cache_is_waited_for_once_and_then_passed_over(road: Road) -> None:
    async def story() -> None:
        async with road.open(answering("503 Service Unavailable", Retry_After=40)):
            with pytest.raises(ServerBusy):
                await road.fetch()
            assert road.asked() == [1, 0]
            assert (await road.fetch()).sha256 == DIGEST
        assert road.asked() == [2, 1]

    play(story)


# --- object store ---------------------------------------------------------------------------------


def to_the_store(port: Callable[[], int]) -> Handler:
    """A controller that names an object store to whoever accepts it."""

    async def handler(request: Request, writer: asyncio.StreamWriter) -> None:
        if request.headers.get("mailboat-accept-redirect") == "1":
            place = f"https://localhost:{port()}/bucket/{DIGEST}?signature=SECRET"
            await send(writer, "307 Temporary Redirect", Location=place)
        else:
            await honest(request, writer)

    return handler


async def ranged(request: Request, writer: asyncio.StreamWriter) -> None:
    """An object store: it knows Range, and has ETags of its own."""
    asked = request.headers.get("range")
    if asked is None:
        await send(writer, "200 OK", CONTENT, ETag='"multipart-2"')
        return
    start = int(asked.removeprefix("bytes=").removesuffix("-"))
    place = f"bytes {start}-{SIZE - 1}/{SIZE}"
    await send(writer, "206 Partial Content", CONTENT[start:], Content_Range=place)


def with_store(
    road: Road, store: Handler, story: Callable[[Server], Coroutine[None, None, None]]
) -> None:
    async def run() -> None:
        server = Server(*road.certificates)
        async with server.source(store) as address:
            controller = to_the_store(lambda: address._client.base_url.port or 0)
            async with road.open(controller=controller, store=road.certificates[1]):
                await story(server)

    asyncio.run(run())


def test_a_redirect_is_followed_once_and_as_a_stranger(road: Road) -> None:
    road.part.write_bytes(CONTENT[:150_000])

    async def story(store: Server) -> None:
        assert (await road.fetch()).sha256 == DIGEST
        assert road.asked() == [1]
        assert bytes_of(road) == {Source.OBJECT_STORE: SIZE - 150_000}
        (request,) = store.requests
        assert request.headers["range"] == "bytes=150000-"
        ours = {"host", "range", "accept-encoding", "connection"}
        assert set(request.headers) <= ours

    with_store(road, ranged, story)


STORES = {
    "refuses": answering("403 Forbidden", b"<Error>SECRET</Error>"),
    "lies": answering("200 OK", WRONG),
    "sends on": answering("302 Found", Location="https://localhost:1/again?signature=SECRET"),
}
MORE_STORES = {
    "lacks": answering("404 Not Found"),
    "is busy": answering("503 Slow Down"),
    "closes": half,
    "too long": longer,
    "never ends": endless,
    "drips": drip,
    "another place": elsewhere_in_the_file,
}


@pytest.mark.parametrize(
    "store",
    [
        *(pytest.param(handler, id=name) for name, handler in STORES.items()),
        *(
            pytest.param(handler, id=name, marks=pytest.mark.slow)
            for name, handler in MORE_STORES.items()
        ),
    ],
)
def test_a_bad_object_store_leaves_the_controller_itself(
    road: Road, store: Handler, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(_: Server) -> None:
        with caplog.at_level("DEBUG", logger="mailboat_agent"):
            assert (await road.fetch()).sha256 == DIGEST
        assert "mailboat-accept-redirect" not in road.controller.requests[-1].headers
        assert "SECRET" not in "\n".join(
            each.getMessage() for each in caplog.records if each.name.startswith("mailboat")
        )

    with_store(road, store, story)


@pytest.mark.parametrize(
    "place",
    [
        "http://localhost:1/?signature=SECRET",
        "https://user:SECRET@localhost:1/",
        "file:///SECRET",
        "",
        "https://[SECRET",
        "https://localhost/" + "S" * 10_000,
    ],
)
def test_a_redirect_to_anything_but_https_is_not_followed(road: Road, place: str) -> None:
    async def story() -> None:
        async def handler(request: Request, writer: asyncio.StreamWriter) -> None:
            if "mailboat-accept-redirect" in request.headers:
                await send(writer, "307 Temporary Redirect", Location=place)
            else:
                await honest(request, writer)

        async with road.open(controller=handler, store=road.certificates[1]):
            assert (await road.fetch()).sha256 == DIGEST
        assert road.asked() == [2]

    play(story)


def test_what_goes_wrong_on_the_way_to_a_store_is_told_without_its_address(road: Road) -> None:
    async def story() -> None:
        async with road.open(controller=to_the_store(lambda: 1), store=road.certificates[1]):
            server = road.source._controller()
            async with open_part(road.part, SIZE) as part:
                with pytest.raises(MailboatError) as raised:
                    await server.transfer(
                        DIGEST, part, road.arrivals, store=lambda: road.certificates[1]
                    )
        assert "SECRET" not in str(raised.value)
        assert raised.value.__cause__ is None
        assert "ConnectError" in str(raised.value)  # and nothing of what the library says of it
        assert "object store" in str(raised.value)

    play(story)


async def dripping_headers(request: Request, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
    while not writer.is_closing():
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.05)


async def dripping_refusal(request: Request, writer: asyncio.StreamWriter) -> None:
    await send(writer, "500 Internal Server Error", Content_Length=4000)
    while not writer.is_closing():
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("drip", [dripping_headers, dripping_refusal])
def test_an_answer_that_drips_before_its_first_byte_is_not_waited_for(
    road: Road, drip: Handler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The total deadline of a gigabyte is days."""
    monkeypatch.setattr(https_connection, "REFUSAL_SECONDS_MAX", 0.3)

    async def story() -> None:
        async with road.open(drip):
            road.source._caches()[0]._answer_seconds_max = 0.3
            async with asyncio.timeout(60):
                assert (await road.fetch()).sha256 == DIGEST
        assert road.asked() == [1, 1]

    play(story)


def test_a_mirror_that_sends_too_much_is_not_asked_for_that_file_again_soon(road: Road) -> None:
    """All that others had brought is lost with it: it must not happen every quarter of an hour."""

    async def story() -> None:
        async with road.open(longer):
            await road.fetch()
            mirrors = road.source._mirrors
            now = asyncio.get_running_loop().time()
            assert not mirrors.may_ask("cache 0", DIGEST, now + STRIKE_SECONDS_MAX)
            assert mirrors.may_ask("cache 0", "f" * 64, now + STRIKE_SECONDS_MAX)

    play(story)


def test_waiting_for_the_cap_is_not_held_against_whoever_is_asked(road: Road) -> None:
    """Several transfers share it, so one may take far longer than at its minimum rate."""

    async def story() -> None:
        async with road.open():
            controller = road.source._controller()
            controller._pace = Pace(180_000)
            controller._deadline_seconds_min = 0.6
            controller._rate_min = 5_000_000
            assert (await road.fetch()).sha256 == DIGEST
        assert road.asked() == [1]

    play(story)

"""The stream that keeps pages true: what it tells, when it ends, and that nothing is left of it."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPSConnection
from typing import Any

import pytest

from console_fleet import enrol_one
from console_visitor import Browser
from mailboat_controller.access.people import Role
from mailboat_controller.console import event_stream, live
from mailboat_controller.console.event_stream import EventStream
from mailboat_controller.console.live import Live
from mailboat_controller.store import access_tokens, audit, device_signs
from running_api import RunningApi, running_api
from trust_fleet import CLASS

TRIES = 400


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(live, "REST_FACTOR", 0.5)
    monkeypatch.setattr(live, "HEARTBEAT_SECONDS", 0.2)


class Stream:
    def __init__(self, connection: HTTPSConnection) -> None:
        self._answer = connection.getresponse()
        self.status = self._answer.status
        self.kind = self._answer.headers["content-type"]

    def next(self) -> tuple[str, Any]:
        """The next event; ("", None) at the end of the stream."""
        name = ""
        while line := self._answer.readline().decode():
            if line.startswith("event: "):
                name = line[7:].strip()
            if line.startswith("data: "):
                return name, json.loads(line[6:])
        return "", None

    def until(self, wanted: Callable[[str, Any], bool]) -> Any:
        for _ in range(TRIES):
            name, data = self.next()
            if wanted(name, data):
                return data
            assert name, "the stream has ended"
        pytest.fail("it was never told")


@contextmanager
def stream(browser: Browser, watch: str = "") -> Iterator[Stream]:
    api = browser.api
    connection = HTTPSConnection("127.0.0.1", api.port, context=api.tls(None), timeout=60)
    cookie = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
    headers = {"Cookie": cookie, "Accept": "text/event-stream"}
    connection.request("GET", f"/console/live?watch={watch}", headers=headers)
    try:
        yield Stream(connection)
    finally:
        connection.close()


def hub(api: RunningApi) -> Live:
    found: Live = api.app.state.console.state.live
    return found


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.01)


def test_it_says_hello_and_then_beats(viewer: Browser) -> None:
    with stream(viewer) as events:
        assert (events.status, events.kind) == (200, "text/event-stream; charset=utf-8")
        assert events.next()[0] == "hello"
        events.until(lambda name, _: name == "beat")


def test_what_somebody_does_is_told_by_topic(api: RunningApi, viewer: Browser) -> None:
    with stream(viewer) as events:
        events.until(lambda name, _: name == "beat")  # it has looked once
        with api.store.transaction() as tx:
            audit.append(tx, at=api.now(), actor="a:b", action="test.act", subject="x")

        told = events.until(lambda name, data: name == "changed" and "audit" in data["topics"])
        assert "overview" in told["topics"]


@pytest.mark.slow
def test_what_changed_between_a_page_and_its_stream_is_told(
    api: RunningApi, viewer: Browser
) -> None:
    made_ms = int(api.now().timestamp() * 1000)
    with api.store.transaction() as tx:
        audit.append(tx, at=api.now(), actor="a:b", action="test.act", subject="x")
    with stream(viewer, f"&since={made_ms}") as events:
        told = events.until(lambda name, _: name == "changed")
    assert "audit" in told["topics"]


@pytest.mark.slow
def test_the_page_of_a_device_hears_of_that_device_alone(api: RunningApi, viewer: Browser) -> None:
    for name in ("live-1", "live-2"):
        enrol_one(api.store, name, api.now())
    with stream(viewer, "device:live-1") as events:
        events.until(lambda name, _: name == "beat")
        with api.store.transaction() as tx:
            device_signs.set_presence(tx, "live-2", session=2, online=False, at=api.now())
            device_signs.set_presence(tx, "live-1", session=2, online=False, at=api.now())

        told = events.until(lambda name, data: name == "changed" and "device:" in str(data))
        assert told == {"topics": ["device:live-1"]}


def test_the_grid_is_told_which_cells_changed(api: RunningApi, viewer: Browser) -> None:
    enrol_one(api.store, "live-cell", api.now(), hardware_class=CLASS)
    with stream(viewer, "fleet") as events:
        first = events.until(lambda name, _: name == "fleet")
        assert first["states"] is None  # it has not been told anything yet
        with api.store.transaction() as tx:
            device_signs.set_presence(tx, "live-cell", session=2, online=False, at=api.now())

        told = events.until(lambda name, data: name == "fleet" and data["states"])
        assert told["shape"] == first["shape"]
        assert [state for _, state in told["states"]] == [2]


@pytest.mark.slow
def test_a_revoked_token_ends_the_stream(api: RunningApi) -> None:
    api.admit(Role.VIEWER, "streamer")
    browser = Browser(api).log_in("streamer")
    with stream(browser) as events:
        events.until(lambda name, _: name == "hello")
        with api.store.transaction() as tx:
            access_tokens.revoke(tx, "streamer", api.now())

        assert events.until(lambda name, _: name == "bye") == {"because": "Logged out"}
        assert events.next() == ("", None)


@pytest.mark.slow
def test_a_stream_ends_by_itself_and_asks_for_another(
    viewer: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "STREAM_SECONDS_MAX", 0.1)
    with stream(viewer) as events:
        events.until(lambda name, _: name == "again")
        assert events.next() == ("", None)


def test_nothing_is_left_when_the_last_page_is_closed(api: RunningApi, viewer: Browser) -> None:
    until(lambda: hub(api).clients == 0)
    with stream(viewer) as one, stream(viewer) as other:
        one.next()
        other.next()
        assert (hub(api).clients, hub(api).looking) == (2, True)

    until(lambda: hub(api).clients == 0)
    assert not hub(api).looking


def test_a_reader_that_is_too_slow_is_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "QUEUE_MESSAGES_MAX", 3)
    client = live.Client("")
    for _ in range(4):
        client.tell(b"news")

    assert [client.queue.get_nowait() for _ in range(client.queue.qsize())] == [None]


def test_one_page_more_than_may_be_kept_up_to_date_is_told_so(
    api: RunningApi, viewer: Browser
) -> None:
    until(lambda: hub(api).clients == 0)
    most = api.settings.console.live_clients
    try:
        hub(api)._clients.update(live.Client("") for _ in range(most))
        page = viewer.get("/live", Accept="text/event-stream")
    finally:
        hub(api)._clients.clear()

    assert (page.status, page.headers["mailboat-error-code"]) == (503, "E-LIVE-CLIENTS")


def test_one_page_more_than_a_person_may_have_kept_up_to_date_is_told_so(
    api: RunningApi, viewer: Browser, operator: Browser
) -> None:
    until(lambda: hub(api).clients == 0)
    most = api.settings.console.live_clients_each
    try:
        hub(api)._clients.update(live.Client("", whose="viewer:vera") for _ in range(most))
        page = viewer.get("/live", Accept="text/event-stream")
        because = viewer.get("/session")
        other = operator.get("/session")
    finally:
        hub(api)._clients.clear()

    assert (page.status, page.headers["mailboat-error-code"]) == (503, "E-LIVE-CLIENTS")
    assert (because.status, because.headers["mailboat-error-code"]) == (503, "E-LIVE-CLIENTS")
    assert other.status == 204


def test_many_streams_asked_for_at_once_do_not_pass_the_bound(api: RunningApi) -> None:
    """They were let in before any of them had a place."""

    async def opened() -> list[bytes]:
        one = live.Live(api.app.state.context, api.app.state.console.state.fleet)
        most = api.settings.console.live_clients_each
        streams = [
            one.stream(live.Client("", whose="viewer:vera"), asyncio.Event(), lambda: True)
            for _ in range(most + 1)
        ]
        told = [await anext(each) for each in streams]
        for each in streams:
            await each.aclose()
        return told

    told = asyncio.run(opened())
    assert [each.partition(b"\n")[0] for each in told[-2:]] == [b"event: hello", b"event: bye"]


@pytest.mark.parametrize("watch", ["device:", "device:a/b", "everything", "device:-"])
def test_only_what_there_is_can_be_watched(viewer: Browser, watch: str) -> None:
    page = viewer.get(f"/live?watch={watch}", Accept="text/event-stream")
    assert page.status == 400


@pytest.mark.slow
def test_a_controller_that_stops_waits_for_no_page(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    told: list[tuple[str, Any]] = []

    def read(events: Stream) -> None:
        while not told or told[-1][0]:
            told.append(events.next())
        held.__exit__(None, None, None)

    with running_api(tmp_path_factory.mktemp("stops")) as api:
        held = stream(Browser(api).log_in("vera"))
        events = held.__enter__()
        assert events.next()[0] == "hello"
        reader = threading.Thread(target=read, args=(events,))
        reader.start()
    reader.join()

    assert told[-2:] == [("bye", {"because": "Controller away"}), ("", None)]


@pytest.mark.parametrize("first", ["http.response.start", "http.response.body"])
def test_a_reader_that_takes_nothing_gives_its_place_back(
    monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """As a laptop that was closed: the network says nothing for a quarter of an hour."""
    monkeypatch.setattr(event_stream, "SEND_SECONDS_MAX", 0.01)
    left: list[bool] = []

    async def events() -> AsyncGenerator[bytes]:
        try:
            while True:
                yield b"news"
        finally:
            left.append(True)

    async def send(message: Any) -> None:
        if message["type"] == first:
            await asyncio.Event().wait()

    async def receive() -> Any:
        await asyncio.Event().wait()

    scope = {"type": "http", "asgi": {"spec_version": "2.3"}}
    asyncio.run(EventStream(events())(scope, receive, send))

    # One that never began holds no place.
    assert left == ([True] if first == "http.response.body" else [])


@pytest.mark.parametrize(("took", "rests"), [(0.001, 2.0), (1.0, 9.0), (7.0, 20.0), (300.0, 20.0)])
def test_a_long_look_does_not_keep_the_next_news_back(
    monkeypatch: pytest.MonkeyPatch, took: float, rests: float
) -> None:
    monkeypatch.undo()
    assert live.rest_seconds(took) == rests


def test_between_looks_at_the_whole_fleet_a_glance_tells_what_changed(
    api: RunningApi, viewer: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole look takes a second for a hundred thousand devices, and then ten until the next."""
    enrol_one(api.store, "live-glance", api.now(), hardware_class=CLASS)
    until(lambda: hub(api).clients == 0)
    fleet = api.app.state.console.state.fleet
    look, looks, rested = fleet.look, [], []

    def looking(*args: Any, **more: Any) -> Any:
        looks.append("whole")
        return look(*args, **more)

    def rest(_seconds: float) -> float:
        """After the look at the whole fleet for ever, else hardly."""
        rested.append(len(looks))
        return 3600.0 if rested.count(1) == 1 else 0.02

    monkeypatch.setattr(live, "rest_seconds", rest)
    monkeypatch.setattr(fleet, "look", looking)
    with stream(viewer, "fleet") as events:
        events.until(lambda name, _: name == "fleet")
        with api.store.transaction() as tx:
            device_signs.set_presence(tx, "live-glance", session=2, online=False, at=api.now())
        told = events.until(lambda name, data: name == "fleet" and data["states"])
    assert [state for _, state in told["states"]] == [2]
    assert looks == ["whole"]


def test_one_bad_look_does_not_end_the_news(
    api: RunningApi, viewer: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    until(lambda: hub(api).clients == 0)
    read, failures = live.changes.marks, [ValueError("a bug")]

    def marks(tx: Any) -> Any:
        if failures:
            raise failures.pop()
        return read(tx)

    monkeypatch.setattr(live.changes, "marks", marks)
    with stream(viewer, "fleet") as events:
        events.until(lambda name, _: name == "fleet")
    assert not failures

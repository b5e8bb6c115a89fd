"""Pages that stay true: one stream of server-sent events a page, of what changed since.

    hello    {"at": …}                        the stream stands
    changed  {"topics": ["rollouts", …]}      who shows it asks for its part of the page again
    fleet    {"revision": …, "shape": …, "since": …, "states": [[number, state], …] or null}
    beat     {"at": …}                        nothing changed
    again    {}                               the stream has lasted long enough; open another
    bye      {"because": …}                   it ends: the controller stops, or the session has

One task looks into the database for all streams, and there is none while nobody looks. A stream has
a queue of its own, so a slow reader keeps nobody waiting: one whose queue is full is sent away, and
what it shows is asked for anew when it comes back.
"""

import asyncio
import contextlib
import functools
import json
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import Any

import structlog
from fastapi.concurrency import run_in_threadpool

from mailboat_controller.api.context import ApiContext
from mailboat_controller.console.fleet_picture import LOOKED_AT_SECONDS, FleetPicture, Picture
from mailboat_controller.store import changes
from mailboat_controller.store.changes import DeviceMark, Marks
from mailboat_schemas.errors import MailboatError, ServerUnavailable

LOOK_SECONDS = 2.0
# Looking takes a tenth of the time, so long as it is short; and a tenth looking at a whole fleet,
# which is done seldom: between two such looks a glance shows what was told.
REST_FACTOR = 9.0
# Reading a large fleet for the first time takes long; what changes next must not wait for that.
REST_SECONDS_MAX = 20.0
HEARTBEAT_SECONDS = 10.0
STREAM_SECONDS_MAX = 600.0
QUEUE_MESSAGES_MAX = 20
STATES_TOLD_MAX = 5000  # of one change; beyond it the grid asks for its columns again
# Counting a rollout reads its whole fleet: news of devices alone is told no oftener.
COUNTS_EVERY_SECONDS = 10.0
KPIS_EVERY_SECONDS = 60.0
FLEET = "fleet"
# What a change of each mark is told as, in the words that pages name their parts by.
TOPICS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "audit": ("audit", "overview", "trust", "sites", "releases"),
        "events": ("rollouts", "overview"),
        "rollouts": ("rollouts", "overview"),
        "releases": ("releases", "rollouts"),
        "sites": ("sites", "overview", FLEET),
    }
)
DEVICE = "device:"

_log = structlog.get_logger(__name__)


class TooManyLook(ServerUnavailable):
    code = "E-LIVE-CLIENTS"


class Client:
    """One open page. ``watch``: ``fleet`` for the grid, ``device:NAME`` for one device, or "".
    ``whose``: the person's, as the audit log has them."""

    def __init__(self, watch: str, since_ms: int | None = None, *, whose: str = "") -> None:
        self.watch, self.whose = watch, whose
        # When its page was made, by our clock; None once it was told of what came after that.
        self.since_ms = since_ms
        self.told_of_fleet = False
        self.queue: asyncio.Queue[bytes | None] = asyncio.Queue(QUEUE_MESSAGES_MAX)

    def tell(self, message: bytes | None) -> None:
        """None ends the stream."""
        try:
            self.queue.put_nowait(message)
        except asyncio.QueueFull:
            while not self.queue.empty():
                self.queue.get_nowait()
            self.queue.put_nowait(None)


class Live:
    """For the event loop's thread alone."""

    def __init__(self, context: ApiContext, fleet: FleetPicture) -> None:
        self._context = context
        self._fleet = fleet
        self._clients: set[Client] = set()
        self._task: asyncio.Task[None] | None = None
        self._marks: Marks | None = None
        self._devices: dict[str, DeviceMark] = {}
        self._told: Picture | None = None
        # When to look at the whole fleet again, and how long that took in the look that is on.
        self._whole_due = self._whole_seconds = 0.0
        self._resting: asyncio.TimerHandle | None = None
        self._counts_told = self._kpis_told = 0.0
        self._owed = False  # news of devices that was not told yet

    @property
    def clients(self) -> int:
        return len(self._clients)

    @property
    def looking(self) -> bool:
        return self._task is not None

    def refuse_too_many(self, whose: str) -> None:
        """
        Raises:
            TooManyLook
        """
        console = self._context.settings.console
        theirs = sum(each.whose == whose for each in self._clients)
        if theirs >= console.live_clients_each:
            raise TooManyLook(
                f"{theirs} pages of {whose} are kept up to date already.",
                next_step="close some, or raise console.live_clients_each; the page itself works, "
                "and shows the newest when it is reloaded.",
            )
        if len(self._clients) >= console.live_clients:
            raise TooManyLook(
                f"{len(self._clients)} pages are kept up to date already.",
                next_step="close some, or raise console.live_clients; the page itself works, and "
                "shows the newest when it is reloaded.",
            )

    def _enter(self, client: Client, stopping: asyncio.Event) -> None:
        self._clients.add(client)
        if self._task is None:
            self._marks, self._whole_due = None, 0.0
            self._task = asyncio.create_task(self._look(stopping), name="console-live")

    def _leave(self, client: Client) -> None:
        self._clients.discard(client)
        if not self._clients and self._task is not None:
            self._task.cancel()
            self._task = self._told = None
            self._rest_after()

    async def stream(
        self, client: Client, stopping: asyncio.Event, still: Callable[[], bool]
    ) -> AsyncGenerator[bytes]:
        """
        Args:
            stopping: set when the server ends.
            still: whether the session lasts; asked in a thread, at every heartbeat.
        """
        ends = time.monotonic() + STREAM_SECONDS_MAX
        try:
            self.refuse_too_many(client.whose)  # many may have asked at once
        except TooManyLook:
            yield message("bye", because="Too many pages")
            return
        # Here, not before: a stream that is never begun must not be left in the set.
        self._enter(client, stopping)
        try:
            yield message("hello", at=self._now())
            while time.monotonic() < ends:
                try:
                    found = await asyncio.wait_for(client.queue.get(), HEARTBEAT_SECONDS)
                except TimeoutError:
                    if not await run_in_threadpool(still):
                        yield message("bye", because="Logged out")
                        return
                    found = message("beat", at=self._now())
                if found is None:
                    yield message("bye", because="Controller away")
                    return
                yield found
            yield message("again")
        finally:
            self._leave(client)

    def _now(self) -> str:
        return self._context.now().isoformat()

    async def _look(self, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            began, self._whole_seconds = time.monotonic(), 0.0
            watched = {each.watch for each in self._clients}
            try:
                await self._tell(watched)
            except MailboatError as error:
                # The beats go on; what pages show has its age written on it.
                _log.warning("the console cannot look for news", problem=str(error))
            except Exception:  # noqa: BLE001
                # A bug shows one part too old; it must not end the news for everybody.
                _log.exception("the console cannot look for news")
            with contextlib.suppress(TimeoutError):
                rest = rest_seconds(time.monotonic() - began - self._whole_seconds)
                await asyncio.wait_for(stopping.wait(), rest)
        for client in self._clients:
            client.tell(None)

    async def _tell(self, watched: set[str]) -> None:
        names = {each.removeprefix(DEVICE) for each in watched if each.startswith(DEVICE)}
        marks, devices = await run_in_threadpool(self._read, names)
        topics = self._topics(marks)
        if topics:
            self._everybody(message("changed", topics=topics))
        for client in self._clients:
            if client.since_ms is not None:
                missed = _missed(marks, client.since_ms)
                client.since_ms = None
                if missed:
                    client.tell(message("changed", topics=missed))
            name = client.watch.removeprefix(DEVICE)
            if name in devices and devices[name] != self._devices.get(name, devices[name]):
                client.tell(message("changed", topics=[client.watch]))
        self._marks, self._devices = marks, devices
        if FLEET in watched:
            await self._tell_of_fleet(sites_changed=FLEET in topics)
        elif self._fleet.held is not None:
            await run_in_threadpool(self._fleet.rest)

    def _read(self, names: set[str]) -> tuple[Marks, dict[str, DeviceMark]]:
        with self._context.store.read() as tx:
            return changes.marks(tx), changes.of_devices(tx, names)

    def _topics(self, new: Marks) -> list[str]:
        """What changed since the last look."""
        old, at = self._marks, time.monotonic()
        if old is None:
            return []
        changed = {name for name in Marks._fields if getattr(new, name) != getattr(old, name)}
        self._owed = self._owed or "events" in changed
        changed.discard("events")
        if self._owed and at - self._counts_told >= COUNTS_EVERY_SECONDS:
            changed.add("events")
            self._owed, self._counts_told = False, at
        found = {topic for name in changed for topic in TOPICS[name]}
        if at - self._kpis_told >= KPIS_EVERY_SECONDS:
            found.add("kpis")
            self._kpis_told = at
        return sorted(found)

    async def _tell_of_fleet(self, *, sites_changed: bool) -> None:
        now, began = self._context.now(), time.monotonic()
        if sites_changed or began >= self._whole_due:
            picture = await run_in_threadpool(self._fleet.look, now, age_max=timedelta())
            self._whole_seconds = time.monotonic() - began
            self._whole_due = time.monotonic() + rest_seconds(self._whole_seconds)
        else:
            picture = await run_in_threadpool(self._fleet.glance, now)
        before, states = self._told, None
        if before is not None:
            states = await run_in_threadpool(picture.changes_since, before)
        shape = {"revision": picture.revision, "shape": picture.shape}
        whole = message(FLEET, **shape, since=0, states=None)
        if states is None or len(states) > STATES_TOLD_MAX:
            news = whole
        elif before is not None and (states or picture.shape != before.shape):
            news = message(FLEET, **shape, since=before.revision, states=states)
        else:
            news = None
        for client in self._clients:
            if client.watch == FLEET and (news is not None or not client.told_of_fleet):
                # Who has just come has columns of its own, of some revision.
                client.tell(news if client.told_of_fleet and news is not None else whole)
                client.told_of_fleet = True
        if news is not None:
            self._told = picture

    def _rest_after(self) -> None:
        """Let the picture of the fleet go, once nobody has looked at it for a while."""
        loop = asyncio.get_running_loop()
        rest = functools.partial(loop.run_in_executor, None, self._fleet.rest)
        if self._resting is not None:
            self._resting.cancel()
        self._resting = loop.call_later(LOOKED_AT_SECONDS + 1, rest)

    def _everybody(self, told: bytes) -> None:
        for client in self._clients:
            client.tell(told)


def rest_seconds(took_seconds: float) -> float:
    """How long not to look, after a look that took so long."""
    return max(LOOK_SECONDS, min(REST_FACTOR * took_seconds, REST_SECONDS_MAX))


def _missed(marks: Marks, since_ms: int) -> list[str]:
    """What changed between the making of a page and the first look for its stream."""
    names = (name for name in Marks._fields if getattr(marks, name).at_ms >= since_ms)
    return sorted({topic for name in names for topic in TOPICS[name]})


def message(kind: str, **data: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()

"""A share of the devices in a process of its own, told what to do over a pipe."""

import asyncio
import random
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

from bench.fleet.devices import KEEPALIVE_SECONDS, LOOK_SECONDS, Device, Release

from enrolled_fleet import EnrolledDevice

CONNECTS_AT_ONCE = 500  # sockets that are being opened: the backlog of the listener is finite


class Share:
    def __init__(self, port: int, devices: Sequence[Device]) -> None:
        self._port = port
        self.devices = devices
        self._opening = asyncio.Semaphore(CONNECTS_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()

    def connect(self, spread_seconds: float, rng: random.Random) -> None:
        for device in self.devices:
            device.lost = self._again(device)
            device.lost(spread_seconds * rng.random())

    def _again(self, device: Device) -> Any:
        def lost(delay_seconds: float) -> None:
            task = asyncio.ensure_future(self._open(device, delay_seconds))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        return lost

    async def _open(self, device: Device, delay_seconds: float) -> None:
        await asyncio.sleep(delay_seconds)
        if device.closing:
            return
        loop = asyncio.get_running_loop()
        try:
            async with self._opening:
                await loop.create_connection(lambda: device, "127.0.0.1", self._port)
        except OSError:
            device.fail()

    async def look_after(self) -> None:
        pinged_at = time.monotonic()
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            now = time.monotonic()
            for device in self.devices:
                device.look(now)
            if now - pinged_at > KEEPALIVE_SECONDS / 2:
                pinged_at = now
                for device in self.devices:
                    device.ping()

    def counts(self) -> dict[str, int]:
        stories = [device.story for device in self.devices]
        return {
            "connections": sum(len(story.connected_at) for story in stories),
            "known_once": sum(len(story.known_at) >= 1 for story in stories),
            "known_twice": sum(len(story.known_at) >= 2 for story in stories),
            "notified": sum(story.notified_at is not None for story in stories),
            "confirmed": sum(story.confirmed_at is not None for story in stories),
        }


def main(
    port: int,
    enrolled: Sequence[EnrolledDevice],
    release: Release,
    spread_seconds: float,
    orders: Connection,
) -> None:
    """Answers "counts" with a dict and "end" with the stories, by device."""
    asyncio.run(_live(port, enrolled, release, spread_seconds, orders))


async def _live(
    port: int,
    enrolled: Sequence[EnrolledDevice],
    release: Release,
    spread_seconds: float,
    orders: Connection,
) -> None:
    rng = random.Random(enrolled[0].name)
    share = Share(port, [Device(each, release, rng) for each in enrolled])
    orders.send("sealed")
    assert await asyncio.to_thread(orders.recv) == "connect"
    share.connect(spread_seconds, rng)
    looking = asyncio.create_task(share.look_after())
    while await asyncio.to_thread(orders.recv) != "end":
        orders.send(share.counts())
    looking.cancel()
    for device in share.devices:
        device.close()
    orders.send([device.story for device in share.devices])

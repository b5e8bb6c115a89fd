"""The outbox against a real broker: a row goes when the broker has it."""

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from controller_core import Core, plan
from enrolled_fleet import CLASS, FLEET
from mailboat_controller.metrics.process_metrics import Metrics
from mailboat_controller.mqtt import link as mqtt
from mailboat_controller.mqtt.link import Link
from mailboat_controller.mqtt.sending import REFUSED_RETRY_SECONDS, Sender
from mailboat_controller.store import outbox
from mailboat_controller.wake import Wake
from mailboat_schemas.topics import Channel, build
from plain_broker import Peer, plain_broker

MANIFEST = build(Channel.MANIFEST, fleet=FLEET, hardware_class=CLASS)


@pytest.fixture
def core(tmp_path: Path) -> Iterator[Core]:
    core = Core(tmp_path / "controller")
    yield core
    core.store.close()


def with_sender(
    core: Core, port: int, story: Callable[[Sender, Link, Metrics], Coroutine[Any, Any, None]]
) -> None:
    async def run() -> None:
        metrics = Metrics(core.store, dict)
        sender = Sender(
            store=core.store,
            reconciler=core.reconciler,
            metrics=metrics,
            queued=Wake(),
            now=lambda: core.now,
        )
        link = Link(host="127.0.0.1", port=port, fleet=FLEET, tls=None, rng=random.Random(1))
        task = asyncio.create_task(link.run(sender.connected))
        async with asyncio.timeout(60):
            await link.until_connected()
            await story(sender, link, metrics)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    asyncio.run(run())


def test_a_manifest_reaches_the_broker_and_leaves_the_outbox(core: Core, tmp_path: Path) -> None:
    core.fleet.enrol("dev-1")
    core.release("1.0.0", plan("first"))

    async def drain(sender: Sender, link: Link, _metrics: Metrics) -> None:
        await sender.drain(link)

    with plain_broker(tmp_path) as broker:
        with_sender(core, broker.port, drain)
        peer = Peer(broker.port, "dev-1", MANIFEST)
        peer.until(lambda: bool(peer.heard))
        peer.close()

    assert peer.heard[0].payload == core.manifest().bundle
    assert core.outbox() == []


def test_a_broker_that_lost_its_retained_messages_gets_them_again(
    core: Core, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt, "RECONNECT_SECONDS_MIN", 0.02)
    core.run()

    def retained(port: int) -> bytes:
        peer = Peer(port, "dev-1", MANIFEST)
        peer.until(lambda: bool(peer.heard))
        peer.close()
        return bytes(peer.heard[0].payload)

    with plain_broker(tmp_path) as broker:

        async def lose_it(sender: Sender, link: Link, _metrics: Metrics) -> None:
            task = asyncio.create_task(sender.run(link))
            assert await asyncio.to_thread(retained, broker.port) == core.manifest().bundle
            broker.kill()
            await asyncio.to_thread(broker.start)
            assert await asyncio.to_thread(retained, broker.port) == core.manifest().bundle
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

        with_sender(core, broker.port, lose_it)


def test_a_refused_reply_is_dropped_and_a_refused_manifest_is_kept(
    core: Core, tmp_path: Path
) -> None:
    core.run()
    with core.store.transaction() as tx:
        outbox.put(tx, topic="mb/1/x", payload=b"", qos=1, retain=False, now=core.now)

    async def drain(sender: Sender, link: Link, metrics: Metrics) -> None:
        assert await sender.drain(link) == REFUSED_RETRY_SECONDS
        assert "mailboat_publishes_refused_total 3.0" in metrics.render().decode()

    with plain_broker(tmp_path, acl="topic read #\n") as broker:
        with_sender(core, broker.port, drain)

    assert [row.topic for row in core.outbox()] == [MANIFEST]

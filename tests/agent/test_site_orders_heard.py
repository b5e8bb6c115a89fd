"""Orders of a site as a device hears them: from its site's real broker, over TLS, whoever has taken
the machine that the broker runs on."""

import asyncio
import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgpack
import pytest

from broker_site import REFUSED, Site, connected
from mailboat_agent.device_orders import DeviceOrders
from mailboat_agent.identity.device_key import tls_context
from mailboat_agent.journal.outbox import Outbox
from mailboat_agent.link.acknowledgement import AckReader
from mailboat_agent.link.correspondence import Correspondence, subscriptions, topic_of
from mailboat_agent.link.mqtt import Broker, Link, LinkDown, Message
from mailboat_agent.logs.answers import LogAnswers
from mailboat_agent.logs.ring import LogRing
from mailboat_controller.sites.access_rules import access_rules
from mailboat_schemas.enrolment import Kind
from mailboat_schemas.events import EventKind
from mailboat_schemas.topics import Channel
from model_fleet import MODEL
from site_island import NOW, Island
from site_orders import SITE, SiteDesk

PATIENCE_SECONDS = 60


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Site]:
    """Of the harbour, with the rules that its kit fetches."""
    site = Site(tmp_path / "harbour")
    (site.directory / "broker" / "acl").write_text(access_rules("demo", SITE, []))
    site.broker.start()
    yield site
    site.broker.stop()


class Listener:
    """The agent's link and what it does with messages; nothing is installed or served here."""

    def __init__(self, island: Island, broker: Site) -> None:
        device, seal = island.device, lambda _kind, payload: payload
        files = broker.files(Kind.DEVICE, device.device)
        tls = tls_context(files.ca, files.certificate, files.key)
        rng = random.Random(1)
        self.link = Link(
            Broker(broker.broker.host, broker.broker.port, tls),
            device=device.device,
            session=1,
            status_topic=topic_of(Channel.STATUS, device),
            subscriptions=subscriptions(device),
            seal=seal,
            rng=rng,
        )
        acks = AckReader(device=device.device, manifest=island.manifest, ledger=island.ledger)
        orders = DeviceOrders(island.data, device, acks, island.manifest, island.orders)
        self._post = Correspondence(
            device=device,
            link=self.link,
            outbox=Outbox(device.device, island.journal, seal, rng),
            reporter=None,  # type: ignore[arg-type] - nothing is reported
            reconciler=None,  # type: ignore[arg-type] - no manifest comes
            acks=acks,
            ledger=island.ledger,
            report_seconds_min=0,
            log_answers=LogAnswers(
                device=device.device, ring=LogRing(island.data / "logs", 0), seal=seal
            ),
            orders=orders,
        )

    async def hears(self, count: int) -> None:
        """So many messages more, each dealt with; the link holds throughout."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while count:
                item = await self.link.receive()
                assert not isinstance(item, LinkDown), item
                self._post.handle(item, NOW, asyncio.get_running_loop().time())
                count -= isinstance(item, Message)


def test_nothing_that_a_taken_sites_broker_says_moves_a_device(
    tmp_path: Path, broker: Site
) -> None:
    island = Island(tmp_path)
    desk, stranger = island.desk, SiteDesk(tmp_path, "stranger")
    earlier = desk.signed(4)
    genuine = desk.signed(5, desk.hold(MODEL))
    hostile = (
        earlier,
        b"\xc1" * 100,
        b"",
        stranger.signed(9, stranger.hold()),
        desk.signed(9, desk.hold(), site="depot"),
        msgpack.packb({**msgpack.unpackb(desk.signed(6)), "more": b"\0" * 300_000}),
        msgpack.packb({**msgpack.unpackb(stranger.signed(9)), "payload": b"\x80" * 300_000}),
    )

    async def story() -> None:
        listener = Listener(island, broker)
        running = asyncio.create_task(listener.link.run())
        try:
            with connected(broker, Kind.SITE, SITE) as site:

                async def says(payload: bytes) -> None:
                    topic = topic_of(Channel.SITE_ORDER, island.device)
                    code = await asyncio.to_thread(site.publish, topic, payload, retain=True)
                    assert code < REFUSED

                await says(genuine)
                await listener.hears(1)
                assert island.notes == [f"site_held:{MODEL}"]
                for each in hostile:
                    await says(each)
                    await listener.hears(1)
                    island.orders.look(NOW)
                    assert island.notes == [f"site_held:{MODEL}"]
                await says(desk.signed(6))
                await listener.hears(1)
                assert island.notes == []
        finally:
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running

    asyncio.run(story())
    assert [code for code, _ in island.told()] == ["ordered", "lifted"]
    assert {code for code, _ in island.told(EventKind.SECURITY)} == {
        "E-PAYLOAD-MALFORMED",
        "E-SITE-ORDER-KEY",
        "E-SITE-ORDER-ELSEWHERE",
        "E-PAYLOAD-TOO-LARGE",
    }
    island.restart()
    assert island.notes == []

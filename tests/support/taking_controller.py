"""The taking half of a controller in a process of its own: PORT DATABASE [CA CERTIFICATE KEY].

Its acknowledgements are signed, by a key that nobody named: who tests with it reads them unchecked.
"""

import asyncio
import random
import ssl
import sys
from datetime import UTC, datetime
from pathlib import Path

from mailboat_controller import garbage, logs
from mailboat_controller.authority.keys import create_key
from mailboat_controller.authority.online import OnlineKeys
from mailboat_controller.metrics.process_metrics import Metrics
from mailboat_controller.mqtt import link as mqtt
from mailboat_controller.mqtt.link import DEVICE_CHANNELS, Link
from mailboat_controller.mqtt.receiving import Receiver
from mailboat_controller.store.engine import Store
from mailboat_controller.wake import Wake

FLEET = "demo"


async def take(port: int, database: Path, tls: ssl.SSLContext | None) -> None:
    store = Store(f"sqlite:///{database}")
    keys = database.with_suffix(".keys")
    online = OnlineKeys(*(create_key(keys / f"{n}.pem") for n in range(3)))
    receiver = Receiver(
        store=store,
        admission=None,
        fleet=FLEET,
        metrics=Metrics(store, dict),
        changed=Wake(),
        queued=Wake(),
        sign_ack=online.sign_ack,
        now=lambda: datetime.now(UTC),
    )
    mqtt.RECONNECT_SECONDS_MAX = 0.5  # brokers are killed often here
    link = Link(
        host="127.0.0.1",
        port=port,
        fleet=FLEET,
        tls=tls,
        rng=random.Random(1),
        channels=DEVICE_CHANNELS,
    )
    async with asyncio.TaskGroup() as group:
        group.create_task(link.run(_say_connected))
        group.create_task(receiver.run(link))


def _say_connected() -> None:
    sys.stdout.write("connected\n")
    sys.stdout.flush()


def _context(ca: str, certificate: str, key: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca)
    context.load_cert_chain(certificate, key)
    return context


if __name__ == "__main__":
    port, database, *files = sys.argv[1:]
    logs.configure("json")  # standard output is read up to "connected" alone
    garbage.settle()
    asyncio.run(take(int(port), Path(database), _context(*files) if files else None))

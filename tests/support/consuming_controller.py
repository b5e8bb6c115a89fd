"""The receiving half of a controller in a process of its own, to be killed: PORT DATABASE."""

import asyncio
import random
import sys
from datetime import UTC, datetime
from pathlib import Path

from mailboat_controller.artifacts.directory import DirectoryStore
from mailboat_controller.authority.keys import create_key
from mailboat_controller.authority.online import OnlineKeys
from mailboat_controller.metrics.process_metrics import Metrics
from mailboat_controller.mqtt.link import Link
from mailboat_controller.mqtt.receiving import Receiver
from mailboat_controller.reconcile import Reconciler
from mailboat_controller.releases.admission import Admission
from mailboat_controller.store.engine import Store
from mailboat_controller.wake import Wake

FLEET = "demo"


async def consume(port: int, database: Path) -> None:
    store = Store(f"sqlite:///{database}")
    keys = database.parent / f"keys-{random.randrange(1 << 30)}"
    online = OnlineKeys(*(create_key(keys / f"{n}.pem") for n in range(3)))
    receiver = Receiver(
        store=store,
        admission=Admission(
            store,
            Reconciler(store, online, FLEET),
            DirectoryStore(database.parent / "artifacts"),
            FLEET,
        ),
        fleet=FLEET,
        metrics=Metrics(store, dict),
        changed=Wake(),
        queued=Wake(),
        sign_ack=online.sign_ack,
        now=lambda: datetime.now(UTC),
    )
    link = Link(host="127.0.0.1", port=port, fleet=FLEET, tls=None, rng=random.Random(1))
    async with asyncio.TaskGroup() as group:
        group.create_task(link.run(_say_connected))
        group.create_task(receiver.run(link))


def _say_connected() -> None:
    sys.stdout.write("connected\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(consume(int(sys.argv[1]), Path(sys.argv[2])))

"""A recovery that cannot be finished yet: nothing is opened, and it can be stopped."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mailboat_controller import data_directory
from mailboat_controller.ingest import process
from mailboat_controller.ingest.partition import client_name
from mailboat_controller.ingest.settings import IngestSettings
from mailboat_controller.pki.issuing import files_of
from mailboat_controller.recovery import running
from mailboat_controller.store import recoveries
from mailboat_controller.store.engine import Store
from mailboat_controller.store.transaction import Transaction
from mailboat_schemas.errors import MailboatError
from trust_fleet import TrustFleet
from unused_port import unused_port

pytestmark = pytest.mark.slow


def now() -> datetime:
    return datetime.now(UTC)


def test_without_its_broker_it_waits_and_opens_nothing_until_it_is_stopped(tmp_path: Path) -> None:
    TrustFleet(tmp_path / "ceremony", now=now())
    settings = data_directory.create(
        tmp_path / "data",
        fleet="demo",
        trust=tmp_path / "ceremony" / "controller",
        now=now(),
        listen_port=unused_port(),
        mqtt_port=unused_port(),
    ).model_copy(update={"embedded_broker": False, "mqtt_host": "127.0.0.1"})
    store = Store(settings.store_url)
    with store.transaction() as tx:
        recoveries.begin(
            tx, kind="restore", backup_at=None, actor="local:ada", reason="fire", at=now()
        )

    stopped = asyncio.Event()

    async def serve() -> object:
        opening = asyncio.create_task(running.open_when_recovered(settings, now, stopped))
        done, _ = await asyncio.wait([opening], timeout=2)
        assert not done  # it goes on trying
        stopped.set()
        return await opening

    assert asyncio.run(serve()) is None
    with store.read() as tx:
        assert recoveries.pending(tx) is not None
    store.close()


def test_a_controller_without_a_recovery_listens_to_nobody(tmp_path: Path) -> None:
    settings = data_directory.create(tmp_path / "data", fleet="demo", trust=None, now=now())

    assert running.recover(settings, now, lambda: False) is None


@pytest.mark.parametrize("ends_by", ["stop", "recovery"])
def test_a_process_that_takes_messages_in_waits_for_the_recovery_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends_by: str
) -> None:
    settings = data_directory.create(
        tmp_path / "data", fleet="demo", trust=None, now=now(), mqtt_port=unused_port()
    ).model_copy(update={"ingest": IngestSettings(partitions=1)})
    files = files_of(settings.pki_dir, client_name(0))
    for path in (files.certificate, files.key):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("no certificate: whoever gets so far ends by that\n")
    store = Store(settings.store_url)
    store.migrate()
    with store.transaction() as tx:
        recoveries.begin(
            tx, kind="restore", backup_at=None, actor="local:ada", reason="fire", at=now()
        )
    looks: list[object] = []
    pending = recoveries.pending

    def counted(tx: Transaction) -> recoveries.RecoveryRow | None:
        looks.append(tx)
        return pending(tx)

    monkeypatch.setattr(recoveries, "pending", counted)
    monkeypatch.setattr(process, "RECOVERY_LOOK_SECONDS", 0.01)
    stopped = asyncio.Event()

    async def work() -> None:
        taking = asyncio.create_task(process.take_in(settings, 0, now=now, stopped=stopped))
        while len(looks) < 5:
            assert not taking.done()
            await asyncio.sleep(0.01)
        if ends_by == "stop":
            stopped.set()
        else:
            with store.transaction() as tx:
                recoveries.finish(tx, learned={}, at=now())
        await taking

    if ends_by == "stop":
        asyncio.run(work())
    else:
        with pytest.raises((MailboatError, OSError)):
            asyncio.run(work())
    store.close()

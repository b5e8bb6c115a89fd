"""A release that arrives as a patch, over an interruption and a restart."""

import asyncio
from pathlib import Path

import pytest

from agent_box import AgentBox
from mailboat_agent.artifacts.download import HttpsSource
from mailboat_schemas.deltas import DeliveryOutcome, delivery_of
from mailboat_schemas.events import EventKind
from model_fleet import MODEL, ArtifactServer, Certificates, ModelFleet
from patched_fleet import heavy, offer_patch


@pytest.mark.slow
def test_what_came_of_a_patch_is_kept_over_interruption_and_restart(tmp_path: Path) -> None:
    fleet, certificates = ModelFleet(tmp_path / "ceremony"), Certificates(tmp_path / "pki")
    server = ArtifactServer(certificates, fleet.artifacts)
    base, target = heavy(2.0), heavy(3.0)
    first = fleet.model_release("1.0.0", model=base, factor=2.0)

    async def play() -> None:
        box = AgentBox(tmp_path / "device", fleet, server, certificates)
        try:
            await box.install(fleet.current(first), "1.0.0")
            second = fleet.model_release("1.1.0", model=target, factor=3.0)
            delta = offer_patch(fleet, base, target)
            server.stalls = True
            await box.source.close()
            box.source = HttpsSource(server.url, box._tls, rate_window_seconds=0.3)
            for digest in (d for d in fleet.artifacts if d not in (delta.patch, delta.target)):
                if not box.store.has(digest) and len(fleet.artifacts[digest]) < 1000:
                    box.store.put(fleet.artifacts[digest])  # the samples are here already
            box.take(fleet.offered(second, first))
            await box.until(lambda: box.reconciler.loops[MODEL]._staging.trouble != "")
            await box.step()  # collects what is garbage

            half = box.store.staged_bytes(delta.patch)
            assert half == delta.patch_length // 2
            server.stalls = False
            await box.restart()
            await box.until(lambda: box.committed("1.1.0"))
            events = [e for e in box.events() if e.kind is EventKind.TRIAL_STARTED]
            delivery = delivery_of(events[-1].evidence)
            assert delivery is not None
            assert delivery.outcome is DeliveryOutcome.DELTA
            assert f"/v1/artifacts/sha256/{delta.target}" not in server.requests
        finally:
            await box.stop()

    try:
        asyncio.run(play())
    finally:
        server.close()

"""A release's files on their way: what is told of them, what survives, what makes room."""

import asyncio
import hashlib
import os
from pathlib import Path

import pytest

from agent_box import PATIENCE_SECONDS, AgentBox, Play, device_facts
from mailboat_agent.artifacts.arrivals import Arrivals
from mailboat_agent.artifacts.download import HttpsSource
from mailboat_agent.artifacts.part_file import SYNC_BYTES, PartFile
from mailboat_agent.artifacts.release_store import ReleaseStore
from mailboat_agent.fetching import Fetching, Progress
from mailboat_agent.identity.device_key import tls_context
from mailboat_agent.report import PROGRESS_STEPS, in_steps
from mailboat_agent.transfer_lines import describe_transfers
from mailboat_agent.transfers import transfers
from mailboat_schemas.deltas import DeliveryOutcome, Source, delivery_of
from mailboat_schemas.documents.release import ReleaseDocument
from model_fleet import MODEL, ArtifactServer, Certificates, ModelFleet
from patched_fleet import heavy, offer_patch

MIB = 1 << 20


def delivered(box: AgentBox, version: str) -> dict[Source, int]:
    event = next(e for e in box.events() if (e.kind, e.version) == ("trial_started", version))
    delivery = delivery_of(event.evidence)
    assert delivery is not None
    return delivery.source_bytes


@pytest.mark.slow
def test_the_delivery_tells_where_the_bytes_came_from(play: Play, fleet: ModelFleet) -> None:
    base, target = heavy(1.0), heavy(2.0)
    first = fleet.model_release("1.0.0", model=base, factor=1.0)
    sent_first = sum(map(len, fleet.artifacts.values()))
    second = fleet.model_release("1.1.0", model=target, factor=2.0)
    delta = offer_patch(fleet, base, target)
    golden_bytes = sum(map(len, fleet.artifacts.values())) - sent_first
    golden_bytes -= len(target) + delta.patch_length

    async def story(box: AgentBox) -> None:
        await box.install(fleet.current(first), "1.0.0")
        assert delivered(box, "1.0.0") == {Source.CONTROLLER: sent_first}
        await box.install(fleet.offered(second, first), "1.1.0")
        assert delivered(box, "1.1.0") == {Source.CONTROLLER: delta.patch_length + golden_bytes}

    play(story)


@pytest.mark.slow
def test_a_release_that_alone_is_over_the_disk_budget_is_refused_and_told(
    play: Play, fleet: ModelFleet, server: ArtifactServer
) -> None:
    first = fleet.model_release("1.0.0")
    large = fleet.model_release("1.1.0", model=heavy(3.0, 6 * MIB), factor=3.0)

    async def story(box: AgentBox) -> None:
        box.device = device_facts(disk_budget_bytes=5 * MIB)
        await box.restart()
        await box.install(fleet.current(first), "1.0.0")
        asked = len(server.requests)
        box.take(fleet.offered(large, first))
        await box.until(lambda: any("1.1.0" in told for told in box.told()))
        assert box.events()[-1].code == "disk"
        assert "bytes" in box.events()[-1].because
        assert len(server.requests) == asked
        assert box.committed("1.0.0")

    play(story)


@pytest.mark.slow
def test_the_part_of_a_release_that_nobody_wants_any_more_makes_room(
    play: Play, fleet: ModelFleet, server: ArtifactServer
) -> None:
    first = fleet.model_release("1.0.0")
    second = fleet.model_release("1.1.0", model=heavy(3.0), factor=3.0)

    async def story(box: AgentBox) -> None:
        await box.install(fleet.current(first), "1.0.0")
        server.stalls = True
        box.take(fleet.offered(second, first))
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not box.store.staged_bytes_of_all():
                await box.step()
                await asyncio.sleep(0.01)
        box.take(fleet.current(first))
        await box.until(lambda: box.store.staged_bytes_of_all() == 0)

    play(story)


def test_a_patch_and_whole_files_are_told_apart_while_they_come(
    play: Play, fleet: ModelFleet, server: ArtifactServer
) -> None:
    first = fleet.model_release("1.0.0", model=heavy(1.0), factor=1.0)
    server.stalls = True

    async def story(box: AgentBox) -> None:
        box.take(fleet.current(first))
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (
                not (found := transfers(box.reconciler.loops.values()))
                or not found[0]["source"]
                or not found[0]["staged_bytes"]
            ):
                await box.step()
                await asyncio.sleep(0.01)
        (each,) = found
        assert (each["model"], each["version"], each["form"]) == (MODEL, "1.0.0", "full")
        assert each["source"] == Source.CONTROLLER
        assert 0 < each["staged_bytes"] < each["total_bytes"]

    play(story)


def test_the_status_says_in_words_how_a_download_stands() -> None:
    figures = {
        "disk": {"used": 300 * MIB, "budget": 1000 * MIB, "free": 5000 * MIB},
        "metered": {"used": 10 * MIB, "per_day": 50 * MIB},
        "downloads": [
            {
                "model": "vad",
                "version": "1.1.0",
                "staged_bytes": 25 * MIB,
                "total_bytes": 100 * MIB,
                "bytes_per_second": 250_000,
                "seconds_left": 314,
                "form": "patch",
                "source": "site_cache",
                "resumed": 3,
                "retried": 0,
            }
        ],
    }
    assert describe_transfers(figures) == [
        "disk      300.0 MiB of 1000.0 MiB used by releases, 5000.0 MiB free",
        "link      metered, 10.0 MiB of 50.0 MiB a day used",
        (
            "fetching  vad 1.1.0: 25 % of 100.0 MiB, patch from site cache, 250.0 kB/s, "
            "5 min 14 s left, resumed 3 times, begun anew 0"
        ),
    ]


def test_a_download_changes_the_report_a_bounded_number_of_times() -> None:
    total = 123_456_789
    told = {in_steps(staged, total) for staged in range(0, total, 10_007)} | {
        in_steps(total, total)
    }
    assert len(told) == PROGRESS_STEPS + 1
    assert max(told) == total
    assert in_steps(0, 0) == 0


def test_rate_and_time_left_follow_what_comes() -> None:
    arrivals = Arrivals()
    arrivals.begins(1000, here=100)
    assert arrivals.seconds_left is None
    for second in range(10):
        arrivals.here = 100 + second * 50
        arrivals.received(Source.CONTROLLER, 50, float(second))
    assert arrivals.rate_bytes_per_second == pytest.approx(50)
    assert arrivals.seconds_left == pytest.approx((1000 - 550) / 50)


def test_a_part_is_made_durable_every_few_mebibytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a power cut may take is bounded: each sync is followed by less than the bound."""
    synced: list[int] = []
    fsync = os.fsync

    def noting(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_size)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noting)
    part = PartFile(tmp_path / "x.part", 4 * SYNC_BYTES)
    unsynced = []
    for _ in range(4 * SYNC_BYTES // MIB):
        part.append(bytes(MIB))
        if part.is_due_to_sync:
            part.sync_so_far()
        unsynced.append(part.size_bytes - max(synced, default=0))
    part.close()
    assert max(unsynced) < SYNC_BYTES
    assert len(synced) == 4 + 1  # and its directory, once


@pytest.mark.slow
def test_what_a_power_cut_made_of_a_part_is_found_out_and_fetched_again(
    play: Play, fleet: ModelFleet
) -> None:
    """Its length was on the disk, its last bytes were not."""
    model = heavy(1.0)
    first = fleet.model_release("1.0.0", model=model, factor=1.0)
    digest = hashlib.sha256(model).hexdigest()

    async def story(box: AgentBox) -> None:
        torn = model[: len(model) // 2] + bytes(1000)
        box.store.staging_path(digest).write_bytes(torn)
        await box.install(fleet.current(first), "1.0.0")
        assert box.store.path(digest).read_bytes() == model
        event = next(e for e in box.events() if e.kind == "trial_started")
        delivery = delivery_of(event.evidence)
        assert delivery is not None
        assert delivery.outcome is DeliveryOutcome.FULL

    play(story)


def test_two_models_that_share_a_file_fetch_it_once(
    tmp_path: Path, fleet: ModelFleet, server: ArtifactServer, certificates: Certificates
) -> None:
    """Side by side they would write into one another's download."""
    fleet.model_release("1.0.0")
    [content] = fleet.documents.values()
    [variant] = ReleaseDocument.parse(content).variants
    store = ReleaseStore(tmp_path / "data")

    async def story() -> None:
        source = HttpsSource(server.url, tls_context(certificates.ca_path))
        fetching = Fetching(
            store=store,
            content_keys=None,  # type: ignore[arg-type]  # nothing is encrypted
            source=lambda: source,
            memory_budget_bytes=64 * MIB,
            disk_bound_bytes=lambda: None,
            meter=None,
        )
        models = [Progress() for _ in range(4)]
        await asyncio.gather(*(fetching.stage(variant, each) for each in models))
        assert all(each.staged_bytes == each.total_bytes for each in models)
        await source.close()

    asyncio.run(story())

    assert len(server.requests) == len(variant.artifacts)
    for digest, length in variant.artifacts.items():
        assert len(store.read_verified(digest, length)) == length

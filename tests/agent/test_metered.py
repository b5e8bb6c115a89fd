"""What a metered link may cost, over restarts and jumping clocks; and what does not wait for it."""

import asyncio
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agent_box import AgentBox, device_facts
from mailboat_agent.artifacts.arrivals import Arrivals
from mailboat_agent.artifacts.content_keys import ContentKeys
from mailboat_agent.artifacts.download import HttpsSource
from mailboat_agent.artifacts.metered import (
    DAYS_OWED_MAX,
    LOOK_AGAIN_SECONDS_MAX,
    SAVE_BYTES,
    SMALL_BYTES,
    Meter,
    MeteredSetting,
    MeteredWait,
    Spending,
)
from mailboat_agent.artifacts.release_store import ReleaseStore
from mailboat_agent.delta.choice import Offered
from mailboat_agent.fetching import Fetching, Progress, Terms
from mailboat_agent.identity.device_key import tls_context
from mailboat_schemas.deltas import Source
from mailboat_schemas.documents.release import ReleaseDocument
from model_fleet import CLASS, MODEL, ArtifactServer, Certificates, ModelFleet
from patched_fleet import heavy, offer_patch

MIB = 1 << 20
DAY = timedelta(days=1)
NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


@dataclass
class Clocks:
    wall: datetime = NOON
    monotonic: float = 1000.0

    def forward(self, span: timedelta) -> None:
        self.wall += span
        self.monotonic += span.total_seconds()


def meter(
    directory: Path,
    clocks: Clocks,
    per_day: int | None = 100 * MIB,
    setting: MeteredSetting = "yes",
) -> Meter:
    return Meter(
        directory,
        setting=setting,
        bytes_per_day=per_day,
        now=lambda: clocks.wall,
        monotonic=lambda: clocks.monotonic,
    )


@pytest.mark.parametrize(
    ("setting", "class_is_metered", "applies"),
    [
        ("class", True, True),
        ("class", False, False),
        ("yes", False, True),
        ("no", True, False),
    ],
)
def test_the_devices_own_word_goes_before_the_class(
    tmp_path: Path, setting: MeteredSetting, class_is_metered: bool, applies: bool
) -> None:
    found = meter(tmp_path, Clocks(), setting=setting)
    assert found.applies(class_is_metered=class_is_metered) is applies


def test_what_is_left_of_the_day_may_be_fetched_and_no_more(tmp_path: Path) -> None:
    found = meter(tmp_path, Clocks())
    found.spend(70 * MIB)
    found.require(30 * MIB)
    with pytest.raises(MeteredWait, match=f"{31 * MIB} bytes at once"):
        found.require(31 * MIB)


def test_a_small_file_does_not_wait_and_is_counted(tmp_path: Path) -> None:
    found = meter(tmp_path, Clocks())
    found.spend(100 * MIB)
    found.require(SMALL_BYTES)
    with pytest.raises(MeteredWait):
        found.require(SMALL_BYTES + 1)


def test_the_budget_comes_back_over_the_day(tmp_path: Path) -> None:
    clocks = Clocks()
    found = meter(tmp_path, clocks)
    found.spend(100 * MIB)
    with pytest.raises(MeteredWait) as waits:
        found.require(MIB)
    assert waits.value.retry_after == timedelta(seconds=864)
    clocks.forward(timedelta(seconds=864))
    found.require(MIB)


def test_a_release_over_the_whole_budget_comes_when_nothing_is_owed_and_is_paid_for(
    tmp_path: Path,
) -> None:
    clocks = Clocks()
    found = meter(tmp_path, clocks)
    found.spend(MIB)
    with pytest.raises(MeteredWait):
        found.require(250 * MIB)
    clocks.forward(DAY)
    found.require(250 * MIB)
    found.spend(250 * MIB)
    clocks.forward(DAY)
    with pytest.raises(MeteredWait):
        found.require(MIB)
    clocks.forward(2 * DAY)
    found.require(MIB)


def test_it_looks_again_soon_for_a_patch_may_be_offered(tmp_path: Path) -> None:
    found = meter(tmp_path, Clocks())
    found.spend(300 * MIB)
    with pytest.raises(MeteredWait) as waits:
        found.require(MIB)
    assert waits.value.retry_after == timedelta(seconds=LOOK_AGAIN_SECONDS_MAX)


def test_without_a_budget_nothing_waits(tmp_path: Path) -> None:
    found = meter(tmp_path, Clocks(), per_day=None)
    found.spend(1 << 40)
    found.require(1 << 40)
    assert not (tmp_path / "metered.json").exists()


# --- over restarts ------------------------------------------------------------------------------


def test_a_restart_does_not_bring_the_budget_back(tmp_path: Path) -> None:
    clocks = Clocks()
    before = meter(tmp_path, clocks)
    before.spend(100 * MIB)
    clocks.monotonic = 3.0  # rebooted
    after = meter(tmp_path, clocks)
    assert after.used_bytes == 100 * MIB


def test_a_crash_forgets_only_what_came_since_it_was_last_kept(tmp_path: Path) -> None:
    clocks = Clocks()
    before = meter(tmp_path, clocks)
    for _ in range(10):
        before.spend(SAVE_BYTES // 2)
    before.spend(SAVE_BYTES // 2)  # not kept any more
    assert meter(tmp_path, clocks).used_bytes == 5 * SAVE_BYTES


@pytest.mark.parametrize("years", [-50, 50])
def test_a_clock_that_jumps_over_a_restart_frees_a_day_at_most_and_blocks_nothing(
    tmp_path: Path, years: int
) -> None:
    clocks = Clocks()
    before = meter(tmp_path, clocks)
    before.spend(250 * MIB)
    clocks.wall += timedelta(days=365 * years)
    after = meter(tmp_path, clocks)
    assert after.used_bytes == (150 if years > 0 else 250) * MIB
    after.save()
    clocks.forward(3 * DAY)
    after.require(100 * MIB)


def test_a_clock_that_jumps_while_it_runs_changes_nothing(tmp_path: Path) -> None:
    clocks = Clocks()
    found = meter(tmp_path, clocks)
    found.spend(100 * MIB)
    clocks.wall += 1000 * DAY
    assert found.used_bytes == 100 * MIB


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 100,
        b"[]",
        b'{"used_bytes": "x", "at": 0}',
        b'{"used_bytes": NaN, "at": 0}',
        b'{"used_bytes": 1e400, "at": 1e400}',
        b"[" * 100_000,
    ],
)
def test_a_damaged_file_costs_a_few_days_at_most(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "metered.json").write_bytes(content)
    clocks = Clocks()
    found = meter(tmp_path, clocks)
    clocks.forward(DAYS_OWED_MAX * DAY)
    found.require(100 * MIB)


def test_what_is_owed_is_bounded(tmp_path: Path) -> None:
    clocks = Clocks()
    found = meter(tmp_path, clocks)
    found.spend(1 << 50)
    assert found.used_bytes == DAYS_OWED_MAX * 100 * MIB


def test_what_a_site_cache_or_a_stick_brings_is_free(tmp_path: Path) -> None:
    found, arrivals = meter(tmp_path, Clocks()), Arrivals()
    arrivals.count(Source.CONTROLLER, 5 * MIB)  # of an earlier attempt, which has been spent
    spending = Spending(found, arrivals)
    arrivals.count(Source.SITE_CACHE, 7 * MIB)
    arrivals.count(Source.IMPORT, 7 * MIB)
    arrivals.count(Source.OBJECT_STORE, 2 * MIB)
    arrivals.count(Source.CONTROLLER, MIB)
    spending.settle()
    spending.settle()
    found.save()
    assert found.used_bytes == 3 * MIB
    assert json.loads((tmp_path / "metered.json").read_bytes())["used_bytes"] == 3 * MIB


# --- on a device ----------------------------------------------------------------------------------


def test_the_whole_waits_the_patch_and_the_urgent_do_not(
    tmp_path: Path, fleet: ModelFleet, server: ArtifactServer, certificates: Certificates
) -> None:
    base, target = heavy(1.0, 2 * SMALL_BYTES), heavy(2.0, 2 * SMALL_BYTES)
    ref = fleet.model_release("1.1.0", model=target, factor=2.0)
    variant = ReleaseDocument.parse(fleet.documents[ref.digest]).variant_for(CLASS)
    assert variant is not None
    delta = offer_patch(fleet, base, target)
    patched = Terms(offered=Offered("1", (delta,)), class_is_metered=True)
    clocks = Clocks()

    async def stage(name: str, terms: Terms) -> Meter:
        source = HttpsSource(server.url, tls_context(certificates.ca_path))
        store, found = ReleaseStore(tmp_path / name), meter(tmp_path, clocks, setting="class")
        store.put(base)
        fetching = Fetching(
            store=store,
            content_keys=ContentKeys(store.content_keys, device_facts(), list, lambda: source),
            source=lambda: source,
            memory_budget_bytes=512 * MIB,
            disk_bound_bytes=lambda: None,
            meter=found,
        )
        try:
            await fetching.stage(variant, Progress(), terms)
            assert store.has(variant.model_file.sha256)
        finally:
            await source.close()
        return found

    meter(tmp_path, clocks).spend(200 * MIB)
    with pytest.raises(MeteredWait):
        asyncio.run(stage("whole", Terms(class_is_metered=True)))
    asyncio.run(stage("not metered", Terms()))
    asyncio.run(stage("patched", patched))
    used = asyncio.run(stage("urgent", Terms(class_is_metered=True, urgent=True))).used_bytes
    spent = used - 200 * MIB
    assert len(target) + delta.patch_length < spent < 1.1 * (len(target) + delta.patch_length)


@pytest.mark.slow
def test_on_a_metered_link_the_whole_waits_the_patch_and_the_urgent_do_not(
    tmp_path: Path, fleet: ModelFleet, server: ArtifactServer, certificates: Certificates
) -> None:
    """The first release comes although it is over the budget: without it nothing would serve."""
    models = [heavy(factor, 2 * SMALL_BYTES) for factor in (1.0, 2.0, 3.0, 4.0)]
    first = fleet.model_release("1.0.0", model=models[0], factor=1.0)
    whole = fleet.model_release("1.1.0", model=models[1], factor=2.0)
    urgent = fleet.model_release("1.3.0", model=models[3], factor=4.0, security_version=1)

    async def story() -> None:
        box = AgentBox(tmp_path / "data", fleet, server, certificates)
        box.meter = Meter(
            tmp_path,
            setting="yes",
            bytes_per_day=100_000,
            now=box.now,
            monotonic=asyncio.get_running_loop().time,
        )
        await box.restart()
        try:
            await box.install(fleet.current(first), "1.0.0")
            box.take(fleet.offered(whole, first))
            loop = box.reconciler.loops[MODEL]
            await box.until(lambda: "metered" in loop.because)
            assert not any("1.1.0" in told for told in box.told())
            assert loop._staging._backoff.attempts == 0
            # A patch is offered: a new manifest, and it does not wait any longer.
            offer_patch(fleet, models[0], models[1])
            await box.install(fleet.offered(whole, first), "1.1.0")
            fleet.deltas = ()
            await box.install(fleet.offered(urgent, whole), "1.3.0")
        finally:
            await box.stop()

    asyncio.run(story())

"""The agent's loop on real files, a real journal, real workers and a real server."""

import asyncio
import json
import os
import signal
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from agent_box import AgentBox, Play
from mailboat_agent.busy import Busy
from mailboat_agent.errand import Kind
from mailboat_agent.update.state import Installed
from mailboat_schemas.codec import decode, encode
from mailboat_schemas.desired import Assignment, FreshTimestamp, ManifestBundle
from mailboat_schemas.events import EventKind
from mailboat_schemas.reports import ModelPhase
from model_fleet import (
    CLASS,
    FLEET,
    MODEL,
    ArtifactServer,
    ModelFleet,
    golden,
    looping,
    picky,
)

INSTALLED = ["trial_started 1.0.0", "soak_started 1.0.0", "committed 1.0.0"]


def test_a_release_is_fetched_tried_served_and_committed(play: Play, fleet: ModelFleet) -> None:
    ref = fleet.model_release("1.0.0")

    async def story(box: AgentBox) -> None:
        await box.install(fleet.current(ref), "1.0.0")
        assert box.told() == INSTALLED
        assert box.state.outcome == "committed"
        assert box.ledger.state.manifest_counter == 1

    play(story)


@pytest.mark.slow
def test_a_second_release_is_swapped_in_and_the_first_stays_to_go_back_to(
    play: Play, fleet: ModelFleet
) -> None:
    a, b = fleet.model_release("1.0.0"), fleet.model_release("1.1.0", factor=3.0)

    async def story(box: AgentBox) -> None:
        await box.install(fleet.current(a), "1.0.0")
        await box.install(fleet.offered(b, a), "1.1.0")
        assert box.state.previous is not None
        assert box.state.previous.version == "1.0.0"
        # The controller halts: the offer is gone, and the way back needs no download.
        await box.install(fleet.current(a), "1.0.0")
        assert box.told()[-1] == "returned 1.1.0"
        assert box.events()[-1].serving_version == "1.0.0"

    play(story)


def test_wrong_golden_outputs_fail_the_trial_and_never_serve(play: Play, fleet: ModelFleet) -> None:
    a = fleet.model_release("1.0.0")
    bad = fleet.model_release("1.1.0", factor=4.0, samples=golden(5.0))

    async def story(box: AgentBox) -> None:
        await box.install(fleet.current(a), "1.0.0")
        box.take(fleet.offered(bad, a))
        await box.until(lambda: "trial_failed 1.1.0" in box.told())
        failed = box.events()[-1]
        assert (failed.code, failed.serving_version) == ("golden_mismatch", "1.0.0")
        assert failed.evidence["tensor"] == "y"
        assert box.committed("1.0.0")
        for _ in range(5):
            await box.step()
        assert box.told().count("trial_started 1.1.0") == 1

    play(story)


@pytest.mark.slow
def test_errors_on_live_traffic_roll_back_without_a_network(
    play: Play, fleet: ModelFleet, server: ArtifactServer
) -> None:
    a = fleet.model_release("1.0.0")
    soak = {"seconds": 600, "breach_requests_min": 3}
    bad = fleet.model_release("1.1.0", model=picky(), samples=golden(1.0, 0.0), soak=soak)

    async def story(box: AgentBox) -> None:
        await box.install(fleet.current(a), "1.0.0")
        box.take(fleet.offered(bad, a))
        await box.until(lambda: box.state.phase is ModelPhase.SOAK)
        server.artifacts.clear()
        for _ in range(4):
            box.ask([9, 9, 9, 9])
        await box.until(lambda: "rolled_back 1.1.0" in box.told())
        assert box.events()[-1].code == "error_rate"
        assert box.committed("1.0.0")
        assert box.state.failed == {bad.digest: 0}

    play(story)


@pytest.mark.slow
def test_while_the_application_is_busy_the_old_release_serves_and_it_is_said_why(
    play: Play, fleet: ModelFleet, tmp_path: Path
) -> None:
    a, b = fleet.model_release("1.0.0"), fleet.model_release("1.1.0", factor=3.0)
    sign = tmp_path / "sign"

    async def story(box: AgentBox) -> None:
        await box.install(fleet.current(a), "1.0.0")
        box.busy = Busy(sign, 600)
        await box.restart()
        sign.touch()
        box.take(fleet.offered(b, a))
        loop = box.reconciler.loops[MODEL]
        async with asyncio.timeout(60):
            while not loop.because.startswith("the application is busy"):
                await box.step()
                await asyncio.sleep(0.01)
        assert box.serving == "1.0.0"
        sign.unlink()
        await box.until(lambda: box.serving == "1.1.0")

    play(story)


@pytest.mark.slow
def test_silence_does_not_end_a_soak_that_asks_for_requests(play: Play, fleet: ModelFleet) -> None:
    a = fleet.model_release("1.0.0", soak={"requests_min": 2})

    async def story(box: AgentBox) -> None:
        box.take(fleet.current(a))
        await box.until(lambda: box.state.phase is ModelPhase.SOAK)
        for _ in range(5):
            await box.step()
        assert box.state.phase is ModelPhase.SOAK
        assert "0 of at least 2 requests" in box.reconciler.loops[MODEL].because
        box.ask([0, 1, 2, 3])
        box.ask([0, 1, 2, 3])
        await box.until(lambda: box.committed("1.0.0"))

    play(story)


def test_a_withdrawn_release_stops_serving(play: Play, fleet: ModelFleet) -> None:
    a = fleet.model_release("1.0.0")

    async def story(box: AgentBox) -> None:
        await box.install(fleet.current(a), "1.0.0")
        fleet.withdraw("1.0.0")
        box.take(fleet.bundle(Assignment(model=MODEL)))
        assert box.serving is None
        await box.until(lambda: box.told()[-1] == "nothing_to_serve 1.0.0")
        await box.restart()
        for _ in range(5):
            await box.step()
        assert box.serving is None

    play(story)


def test_an_unapproved_release_is_refused_once_and_nothing_changes(
    play: Play, fleet: ModelFleet
) -> None:
    a = fleet.model_release("1.0.0")
    rogue = fleet.model_release("1.1.0", factor=3.0, approve=False)

    async def story(box: AgentBox) -> None:
        await box.install(fleet.current(a), "1.0.0")
        box.take(fleet.offered(rogue, a))
        for _ in range(5):
            await box.step()
        assert box.told() == [*INSTALLED, "release_refused 1.1.0"]
        assert box.events()[-1].code == "E-NOT-APPROVED"
        assert box.committed("1.0.0")

    play(story)


# --- manifests that do not hold ------------------------------------------------------------------


@pytest.mark.slow
def test_whatever_is_wrong_with_a_manifest_is_told_once_and_changes_nothing(
    play: Play, fleet: ModelFleet
) -> None:
    a = fleet.model_release("1.0.0")
    good = fleet.current(a)
    bundle = decode(ManifestBundle, good)
    garbage = dict.fromkeys(bundle.trust, b"{}")
    other_fleet = bundle.model_copy(update={"fleet": "other"})
    hostile = {
        b"": "E-PAYLOAD-MALFORMED",  # somebody cleared the topic: no news, never "uninstall"
        b"\x00garbage": "E-PAYLOAD-MALFORMED",
        bytes(ManifestBundle.wire_bytes_max + 1): "E-PAYLOAD-TOO-LARGE",
        encode(other_fleet): "E-TOPIC-MISMATCH",
        fleet.bundle(hardware_class="other"): "E-TOPIC-MISMATCH",
        encode(bundle.model_copy(update={"trust": garbage})): "E-METADATA-MALFORMED",
        encode(bundle.model_copy(update={"desired": b"\x80"})): "E-PAYLOAD-MALFORMED",
    }

    async def story(box: AgentBox) -> None:
        await box.install(good, "1.0.0")
        for start in range(2):
            for payload in [*hostile, *hostile]:
                assert not box.take(payload)
            refused = [event.code for event in box.events()[len(INSTALLED) :]]
            assert refused == list(hostile.values())
            if not start:
                await box.restart()
        await box.until(lambda: box.committed("1.0.0"))

    play(story)


def test_a_manifest_that_meets_a_bug_is_refused_like_any_other(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(box: AgentBox) -> None:
        def bug(*_arguments: object) -> None:
            raise KeyError("nobody thought of it")

        with monkeypatch.context() as broken:
            broken.setattr(box.manifest, "take", bug)
            broken.setattr(box.manifest, "take_fresh", bug)
            assert not box.take(b"hostile")
            box.reconciler.take_fresh(b"hostile too", box.now())
        assert [event.code for event in box.events()] == ["E-UNFORESEEN"] * 2

    play(story)


@pytest.mark.slow
def test_an_older_desired_state_is_refused_after_a_restart_and_after_a_lost_record(
    play: Play, fleet: ModelFleet
) -> None:
    a = fleet.model_release("1.0.0")

    async def story(box: AgentBox) -> None:
        older = fleet.bundle(Assignment(model=MODEL))
        await box.install(fleet.current(a), "1.0.0")
        counter, floor = box.ledger.state.manifest_counter, box.ledger.state.time_floor
        await box.restart()
        assert not box.take(older)
        await box.stop()
        for name in ("state.json", "state.json.prev"):
            (box.directory / name).write_bytes(b"rot")
        box.start()
        assert (box.ledger.state.manifest_counter, box.ledger.state.time_floor) == (counter, floor)
        assert not box.take(older)
        assert [each.code for each in box.events()].count("E-ROLLBACK") == 1
        # What it has on disk it tries again, and says so under new names.
        await box.until(lambda: box.committed("1.0.0"))
        ids = [event.event_id for event in box.events()]
        assert len(ids) == len(set(ids))
        assert box.told()[-3:] == INSTALLED

    play(story)


def test_the_same_manifest_twice_is_one_manifest(play: Play, fleet: ModelFleet) -> None:
    bundle = fleet.current(fleet.model_release("1.0.0"))

    async def story(box: AgentBox) -> None:
        assert box.take(bundle)
        assert not box.take(bundle)
        assert box.events() == []

    play(story)


def test_a_broker_that_repeats_what_it_once_retained_is_no_attacker(
    play: Play, fleet: ModelFleet
) -> None:
    first = fleet.current(fleet.model_release("1.0.0"))
    second = fleet.current(fleet.model_release("1.0.1"))

    async def story(box: AgentBox) -> None:
        assert box.take(first)
        assert box.take(second)
        assert not box.take(first)
        assert box.events() == []

    play(story)


def test_a_director_that_was_not_delegated_is_refused(
    play: Play, fleet: ModelFleet, tmp_path: Path
) -> None:
    stranger = ModelFleet(tmp_path / "stranger")

    async def story(box: AgentBox) -> None:
        fleet.online, online = (
            replace(fleet.online, director=stranger.online.director),
            fleet.online,
        )
        forged = fleet.bundle(Assignment(model=MODEL))
        fleet.online = online
        assert not box.take(forged)
        assert box.events()[-1].code == "E-SIGNATURE"

    play(story)


def test_a_clock_before_the_floor_installs_nothing_until_it_is_right(
    play: Play, fleet: ModelFleet
) -> None:
    a = fleet.model_release("1.0.0")

    async def story(box: AgentBox) -> None:
        box.clock_offset = timedelta(days=-20_000)
        assert not box.take(fleet.current(a))
        for _ in range(3):
            await box.step()
        assert box.told() == ["clock_untrusted"]
        box.clock_offset = timedelta()
        await box.until(lambda: box.committed("1.0.0"))

    play(story)


@pytest.mark.slow
def test_a_clock_in_2100_serves_on_and_installs_nothing_until_it_is_right(
    play: Play, fleet: ModelFleet
) -> None:
    a, b = fleet.model_release("1.0.0"), fleet.model_release("1.1.0", factor=3.0)

    async def story(box: AgentBox) -> None:
        await box.install(fleet.current(a), "1.0.0")
        floor = box.ledger.state.time_floor
        box.clock_offset = timedelta(days=75 * 365)
        box.take(fleet.offered(b, a))
        for _ in range(3):
            await box.step()
        assert box.told() == [*INSTALLED, "clock_untrusted"]
        assert box.committed("1.0.0")
        assert box.ledger.state.time_floor == floor
        box.clock_offset = timedelta()
        await box.until(lambda: box.committed("1.1.0"))

    play(story)


@pytest.mark.slow
def test_a_device_that_comes_back_after_years_takes_what_is_new(
    play: Play, fleet: ModelFleet
) -> None:
    """Its clock is right. Only the manifest that it hears can show that."""
    a = fleet.model_release("1.0.0")

    async def story(box: AgentBox) -> None:
        await box.install(fleet.current(a), "1.0.0")
        box.clock_offset = timedelta(days=800)
        await box.step()
        assert box.told()[-1] == "clock_untrusted"
        assert box.committed("1.0.0")
        fleet.now += timedelta(days=800)
        b = fleet.model_release("1.1.0", factor=3.0)
        await box.install(fleet.offered(b, a), "1.1.0")

    play(story)


@pytest.mark.slow
def test_a_device_that_was_away_for_a_release_goes_straight_to_the_newest(
    play: Play, fleet: ModelFleet, server: ArtifactServer
) -> None:
    a = fleet.model_release("1.0.0")

    async def story(box: AgentBox) -> None:
        await box.install(fleet.current(a), "1.0.0")
        known = set(fleet.artifacts)
        missed = fleet.model_release("1.1.0", factor=3.0)
        fleet.current(missed)  # published while it was away
        of_missed = set(fleet.artifacts) - known
        newest = fleet.model_release("1.2.0", factor=4.0)
        server.requests.clear()
        await box.install(fleet.current(newest), "1.2.0")

        assert not any("1.1.0" in told for told in box.told())
        assert of_missed
        assert server.requests
        assert not any(digest in path for digest in of_missed for path in server.requests)
        assert box.store.digests().isdisjoint({missed.digest, *of_missed})
        assert box.state.previous is not None
        assert box.state.previous.version == "1.0.0"

    play(story)


@pytest.mark.slow
def test_expired_trust_serves_on_and_installs_nothing_new(play: Play, fleet: ModelFleet) -> None:
    a, b = fleet.model_release("1.0.0"), fleet.model_release("1.1.0", factor=3.0)

    async def story(box: AgentBox) -> None:
        await box.install(fleet.current(a), "1.0.0")
        box.take(fleet.offered(b, a))
        box.clock_offset = timedelta(days=40)
        for _ in range(3):
            await box.step()
        assert "trust_stale" in box.told()
        assert box.committed("1.0.0")
        assert "trust metadata has expired" in box.reconciler.loops[MODEL].because

    play(story)


@pytest.mark.slow
def test_a_fresh_timestamp_moves_the_expiry_and_a_forged_one_does_not_block_bundles(
    play: Play, fleet: ModelFleet
) -> None:
    a = fleet.model_release("1.0.0")

    async def story(box: AgentBox) -> None:
        await box.install(fleet.current(a), "1.0.0")
        before = box.manifest.expires
        fleet.roles["timestamp"] = fleet.online.sign_timestamp(
            fleet.roles["timestamp"], fleet.roles["snapshot"], now=fleet.now + timedelta(hours=20)
        )
        box.reconciler.take_fresh(fresh(fleet.roles["timestamp"]), box.now())
        assert before is not None
        assert box.manifest.expires is not None
        assert box.manifest.expires > before
        forged = json.loads(fleet.roles["timestamp"])
        forged["signed"]["version"] = 10**6
        box.reconciler.take_fresh(fresh(json.dumps(forged).encode()), box.now())
        assert box.events()[-1].code == "E-SIGNATURE"
        b = fleet.model_release("1.1.0", factor=3.0)
        await box.install(fleet.offered(b, a), "1.1.0")

    play(story)


def fresh(timestamp: bytes) -> bytes:
    return encode(FreshTimestamp(fleet=FLEET, hardware_class=CLASS, timestamp=timestamp))


# --- restarts ------------------------------------------------------------------------------------


def test_after_a_restart_without_network_it_serves_what_it_served(
    play: Play, fleet: ModelFleet, server: ArtifactServer
) -> None:
    a = fleet.model_release("1.0.0")

    async def story(box: AgentBox) -> None:
        await box.install(fleet.current(a), "1.0.0")
        server.artifacts.clear()
        await box.restart()
        await box.until(lambda: box.serving == "1.0.0")
        assert box.told() == [*INSTALLED, "restarted 1.0.0"]

    play(story)


@pytest.mark.slow
def test_a_lost_journal_is_told_again_from_the_state(play: Play, fleet: ModelFleet) -> None:
    a = fleet.model_release("1.0.0")

    async def story(box: AgentBox) -> None:
        await box.install(fleet.current(a), "1.0.0")
        before = [event.event_id for event in box.events()]
        await box.stop()
        for path in box.directory.glob("journal.db*"):
            path.unlink()
        box.start()
        await box.step()
        *again, lost = box.events()
        assert [event.event_id for event in again] == before
        assert (lost.kind, lost.code) == (EventKind.STORAGE_DAMAGED, "journal")

    play(story)


@pytest.mark.slow
def test_a_device_that_restarts_in_every_trial_gives_up_after_three(
    play: Play, fleet: ModelFleet
) -> None:
    a, b = fleet.model_release("1.0.0"), fleet.model_release("1.1.0", factor=3.0)

    async def story(box: AgentBox) -> None:
        await box.install(fleet.current(a), "1.0.0")
        box.take(fleet.offered(b, a))
        for attempt in range(3):
            while box.state.tries != 2 - attempt or box.state.phase is not ModelPhase.TRIAL:
                await box.step()
                await asyncio.sleep(0.01)
            await box.restart()  # in the middle of the attempt
        await box.until(lambda: "trial_failed 1.1.0" in box.told())
        assert box.events()[-1].code == "tries_exhausted"
        await box.until(lambda: box.committed("1.0.0"))

    play(story)


@pytest.mark.slow
def test_an_agent_that_is_told_to_stop_gives_the_attempt_back(
    play: Play, fleet: ModelFleet
) -> None:
    a = fleet.model_release("1.0.0", soak={"requests_min": 1})

    async def story(box: AgentBox) -> None:
        box.tries = 1
        await box.restart()
        box.take(fleet.current(a))
        for _ in range(2):
            await box.until(lambda: box.state.phase is ModelPhase.SOAK and box.serving is not None)
            await box.step()
            box.reconciler.give_back_attempts()
            await box.restart()
        await box.until(lambda: box.serving == "1.0.0")
        assert (box.state.phase, box.state.tries, box.state.stops) == (ModelPhase.SOAK, 0, 2)
        box.ask([0, 1, 2, 3])
        await box.until(lambda: box.committed("1.0.0"))
        box.reconciler.give_back_attempts()  # there is none any more
        assert box.state.stops == 2

    play(story)


@pytest.mark.slow
def test_what_somebody_adds_to_a_manifest_makes_it_no_news(play: Play, fleet: ModelFleet) -> None:
    """Whoever repeats it with a little more each time wears out no disk with it."""
    a = fleet.model_release("1.0.0")

    async def story(box: AgentBox) -> None:
        bundle = fleet.current(a)
        await box.install(bundle, "1.0.0")
        kept = box.directory / "manifests" / str(box.ledger.state.manifest_counter)
        before = kept.stat()
        read = fleet.read(bundle)
        for number in range(3):
            stuffed = read.documents | {f"{number}" * 64: b"x" * 100}
            assert not box.take(encode(read.model_copy(update={"documents": stuffed})))
        assert kept.stat() == before
        assert box.told() == ["trial_started 1.0.0", "soak_started 1.0.0", "committed 1.0.0"]

        (box.directory / "store" / a.digest).unlink()  # a document that is lacking is news
        box.manifest.forget_documents_but(frozenset())
        stuffed = read.documents | {"9" * 64: b"x"}
        assert box.take(encode(read.model_copy(update={"documents": stuffed})))

    play(story)


@pytest.mark.slow
def test_a_soak_cut_by_a_restart_begins_again(play: Play, fleet: ModelFleet) -> None:
    a = fleet.model_release("1.0.0", soak={"requests_min": 1})

    async def story(box: AgentBox) -> None:
        box.take(fleet.current(a))
        await box.until(lambda: box.state.phase is ModelPhase.SOAK)
        assert box.state.tries == 2
        await box.restart()
        await box.until(lambda: box.serving == "1.0.0")
        assert (box.state.phase, box.state.tries) == (ModelPhase.SOAK, 1)
        box.ask([0, 1, 2, 3])
        await box.until(lambda: box.committed("1.0.0"))

    play(story)


@pytest.mark.slow
def test_a_damaged_model_file_is_found_before_it_serves_and_fetched_again(
    play: Play, fleet: ModelFleet
) -> None:
    a = fleet.model_release("1.0.0")

    async def story(box: AgentBox) -> None:
        await box.install(fleet.current(a), "1.0.0")
        document = box.manifest.document(a.digest)
        assert document is not None
        path = box.store.path(document.variants[0].model_file.sha256)
        await box.stop()
        path.chmod(0o600)
        path.write_bytes(b"rot")
        box.start()
        await box.until(lambda: box.committed("1.0.0"))
        assert "storage_damaged" in box.told()
        assert box.told().count("trial_started 1.0.0") == 1

    play(story)


@pytest.mark.slow
def test_a_damaged_release_document_is_taken_from_the_kept_manifest(
    play: Play, fleet: ModelFleet
) -> None:
    a = fleet.model_release("1.0.0")

    async def story(box: AgentBox) -> None:
        await box.install(fleet.current(a), "1.0.0")
        await box.stop()
        path = box.store.path(a.digest)
        path.chmod(0o600)
        path.write_bytes(b"rot")
        box.start()
        await box.until(lambda: box.serving == "1.0.0")
        assert box.told() == [*INSTALLED, "storage_repaired 1.0.0", "restarted 1.0.0"]

    play(story)


@pytest.mark.slow
def test_what_is_committed_begins_to_serve_before_anything_is_decided(
    play: Play, fleet: ModelFleet
) -> None:
    a = fleet.model_release("1.0.0")

    async def story(box: AgentBox) -> None:
        await box.install(fleet.current(a), "1.0.0")
        await box.restart()
        box.reconciler.begin_serving(box.now(), asyncio.get_running_loop().time())
        work = box.reconciler.loops[MODEL].work
        assert work is not None
        await work.task
        assert box.serving == "1.0.0"

    play(story)


def test_a_soak_that_was_cut_is_not_served_before_its_attempt_is_counted(
    play: Play, fleet: ModelFleet
) -> None:
    a = fleet.model_release("1.0.0", soak={"requests_min": 1})

    async def story(box: AgentBox) -> None:
        box.take(fleet.current(a))
        await box.until(lambda: box.state.phase is ModelPhase.SOAK)
        await box.restart()
        box.reconciler.begin_serving(box.now(), asyncio.get_running_loop().time())
        assert not box.reconciler.busy

    play(story)


@pytest.mark.slow
def test_a_committed_release_the_runtime_refuses_makes_room_for_its_predecessor(
    play: Play, fleet: ModelFleet
) -> None:
    """As after an upgrade of onnxruntime. It is no verdict, but the trial that follows is one."""
    a = fleet.model_release("1.0.0")
    b = fleet.model_release("1.1.0", factor=3.0)

    async def story(box: AgentBox) -> None:
        await box.install(fleet.current(a), "1.0.0")
        await box.install(fleet.offered(b, a), "1.1.0")
        await box.stop()
        document = box.manifest.document(b.digest)
        assert document is not None
        # The trial's golden samples stay; the model becomes one that cannot be loaded.
        bad = fleet.model_release("1.2.0", model=b"no model", samples=golden(3.0))
        box.start()
        active = Installed(version=bad.version, digest=bad.digest)
        box.store.put(fleet.documents[bad.digest])
        box.store.put(b"no model")
        box.store.put(golden(3.0))
        state = replace(box.state, active=active, previous=box.state.previous)
        box.ledger.save(replace(box.ledger.state, models={MODEL: state}))
        box.take(fleet.offered(bad, a))
        await box.until(lambda: box.serving == "1.0.0")
        returned = next(event for event in box.events() if event.kind == "returned")
        assert (returned.code, returned.serving_version) == ("load_failed", "1.0.0")
        await box.until(lambda: "trial_failed 1.2.0" in box.told())
        assert box.committed("1.0.0")

    play(story)


@pytest.mark.slow
def test_a_worker_that_dies_twice_in_a_soak_fails_it(play: Play, fleet: ModelFleet) -> None:
    a = fleet.model_release("1.0.0")
    b = fleet.model_release("1.1.0", factor=3.0, soak={"seconds": 600})

    async def story(box: AgentBox) -> None:
        await box.install(fleet.current(a), "1.0.0")
        box.take(fleet.offered(b, a))
        await box.until(lambda: box.serving == "1.1.0" and box.state.phase is ModelPhase.SOAK)
        first = box.runtime.worker_pid(MODEL)
        os.kill(first, signal.SIGKILL)
        await box.until(
            lambda: box.runtime.worker_pid(MODEL) not in (0, first) and box.runtime.ready(MODEL)
        )
        os.kill(box.runtime.worker_pid(MODEL), signal.SIGKILL)
        await box.until(lambda: "rolled_back 1.1.0" in box.told())
        assert box.events()[-1].code == "crashed"
        assert box.committed("1.0.0")

    play(story)


@pytest.mark.slow
def test_what_serves_beside_a_trial_is_stopped_when_it_is_withdrawn(
    play: Play, fleet: ModelFleet
) -> None:
    a = fleet.model_release("1.0.0")
    b = fleet.model_release("1.1.0", model=looping(), health={"deadline_seconds": 200})

    async def story(box: AgentBox) -> None:
        await box.install(fleet.current(a), "1.0.0")
        box.take(fleet.offered(b, a))
        while box.state.phase is not ModelPhase.TRIAL or not box.reconciler.busy:
            await box.step()
            await asyncio.sleep(0.01)
        fleet.withdraw("1.0.0")
        box.take(fleet.offered(b, None))
        await box.step()
        assert box.reconciler.busy  # the trial goes on
        assert box.serving is None

    box = play(story)
    # Its worker ends with the agent, not at the trial's deadline.
    asyncio.run(box.until_seen(lambda: not psutil.Process().children()))


@pytest.mark.slow
def test_damaged_trust_metadata_serves_nothing_it_cannot_vouch_for(
    play: Play, fleet: ModelFleet
) -> None:
    a = fleet.model_release("1.0.0")

    async def story(box: AgentBox) -> None:
        await box.install(fleet.current(a), "1.0.0")
        await box.stop()
        for path in (box.directory / "trust").rglob("*.json"):
            path.write_bytes(b"{}")
        for path in (box.directory / "manifests").iterdir():
            path.write_bytes(b"rot")
        box.start()
        for _ in range(5):
            await box.step()
        assert box.serving is None
        assert box.state.active is not None
        assert "storage_damaged" in box.told()
        # The next manifest heals it, and nothing is installed or tried anew.
        box.take(fleet.current(a))
        await box.until(lambda: box.committed("1.0.0"))
        assert box.told().count("trial_started 1.0.0") == 1

    play(story)


# --- fetching ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_missing_artifact_is_waited_for(
    play: Play, fleet: ModelFleet, server: ArtifactServer
) -> None:
    a = fleet.model_release("1.0.0")
    held = dict(server.artifacts)

    async def story(box: AgentBox) -> None:
        server.artifacts.clear()
        box.take(fleet.current(a))
        await box.until(lambda: len(server.requests) > 0)
        assert box.events() == []
        server.artifacts.update(held)
        await box.until(lambda: box.committed("1.0.0"))

    play(story)


@pytest.mark.slow
def test_altered_bytes_are_refused_once_and_taken_when_the_manifest_changes(
    play: Play, fleet: ModelFleet, server: ArtifactServer
) -> None:
    a = fleet.model_release("1.0.0")
    held = dict(server.artifacts)

    async def story(box: AgentBox) -> None:
        altered = {digest: bytes(len(content)) for digest, content in held.items()}
        server.artifacts.update(altered)
        box.take(fleet.current(a))
        await box.until(lambda: box.told() == ["release_refused 1.0.0"])
        assert box.events()[0].code == "E-DIGEST"
        asked = len(server.requests)
        for _ in range(5):
            await box.step()
        assert len(server.requests) == asked == 2
        server.artifacts.update(held)
        await box.install(fleet.current(a), "1.0.0")

    play(story)


def test_the_report_says_why_a_download_does_not_come_further(
    play: Play, fleet: ModelFleet, server: ArtifactServer
) -> None:
    a = fleet.model_release("1.0.0")

    async def story(box: AgentBox) -> None:
        server.artifacts.clear()
        box.take(fleet.current(a))
        await box.until(lambda: "was answered with 404" in box.reconciler.loops[MODEL].because)
        assert box.events() == []

    play(story)


@pytest.mark.slow
def test_a_download_that_nobody_wants_any_more_is_dropped(
    play: Play, fleet: ModelFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = fleet.model_release("1.0.0"), fleet.model_release("1.1.0", factor=3.0)

    async def story(box: AgentBox) -> None:
        async def never_ends(*_arguments: object) -> None:
            await asyncio.sleep(3600)

        with monkeypatch.context() as stuck:
            stuck.setattr(box.source, "fetch_artifact", never_ends)
            box.take(fleet.current(b))
            while not box.reconciler.busy:
                await box.step()
            work = box.reconciler.loops[MODEL].work
            assert work is not None
            assert work.kind is Kind.STAGE
        await box.install(fleet.current(a), "1.0.0")
        assert "trial_started 1.1.0" not in box.told()

    play(story)


@pytest.mark.slow
def test_what_nothing_names_any_more_is_deleted(play: Play, fleet: ModelFleet) -> None:
    refs = [fleet.model_release(f"1.{n}.0", factor=2.0 + n) for n in range(4)]

    async def story(box: AgentBox) -> None:
        for n, ref in enumerate(refs):
            await box.install(fleet.current(ref), f"1.{n}.0")
        held = box.store.digests()
        assert refs[0].digest not in held
        assert {ref.digest for ref in refs[1:]} <= held
        assert len(held) == 9
        assert [each.version for each in box.state.predecessors] == ["1.2.0", "1.1.0"]

    play(story)

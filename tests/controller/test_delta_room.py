"""The delta room on a real database with real files and real processes, and what goes wrong."""

import asyncio
import hashlib
import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from delta_fleet import BASE, TUNED, DeltaFleet
from mailboat_controller.artifacts.references import referenced
from mailboat_controller.artifacts.scrub import Scrubber
from mailboat_controller.delta_builds import loops, making, pairs, row_state
from mailboat_controller.delta_builds.builder import PROGRAM
from mailboat_controller.delta_builds.loops import DeltaLoops
from mailboat_controller.delta_builds.queue_plan import GATHER_MAX
from mailboat_controller.delta_builds.row_state import Trigger
from mailboat_controller.deltas import portfolio
from mailboat_controller.store import artifact_life, deltas, deployed
from mailboat_controller.store.deltas import Key, State
from mailboat_schemas.deltas import Delta
from mailboat_schemas.errors import ServerUnavailable
from mailboat_schemas.events import EventKind

OLD = b"one two three four five six " * 400
NEW = OLD.replace(b"four", b"more")
MIB = 1 << 20
FALLS_OVER = ("/bin/sh", "-c", "echo it fell over >&2; exit 1")
KILLED = ("/bin/sh", "-c", "kill -9 $$")
HANGS = ("sleep", "60")
OUT_OF_MEMORY = (sys.executable, "-c", "import os; os._exit(3)")


@pytest.fixture
def fleet(tmp_path: Path) -> DeltaFleet:
    return DeltaFleet(tmp_path)


def upgraded(tmp_path: Path, **changes: Any) -> DeltaFleet:
    """One device runs OLD, NEW is offered, and the queue is filled."""
    fleet = DeltaFleet(tmp_path, builder_changes=changes)
    fleet.upgrade(OLD, NEW, devices=1)
    fleet.look()
    return fleet


def offered(tmp_path: Path) -> DeltaFleet:
    """The same with a patch from OLD to NEW that devices are told of."""
    fleet = upgraded(tmp_path)
    patch = fleet.put(b"a patch")
    with fleet.core.store.transaction() as tx:
        row = row_state.started(fleet.row(OLD, NEW), fleet.core.now)
        news = {"format": "zstd-patch/1", "patch": patch["sha256"], "patch_length": 7}
        built = row_state.move(row, Trigger.BUILD, fleet.core.now, memory_bytes=1, **news)
        deltas.put(tx, built)
    fleet.core.now += GATHER_MAX
    fleet.look()
    fleet.core.run()
    assert [each.target for each in fleet.told()] == [hashlib.sha256(NEW).hexdigest()]
    return fleet


def build_one(fleet: DeltaFleet) -> None:
    """The patch from OLD to NEW alone, by hand the first in the queue."""
    order(fleet)
    assert fleet.room.build_next()


def order(fleet: DeltaFleet) -> None:
    row = fleet.row(OLD, NEW)
    with fleet.core.store.transaction() as tx:
        deltas.put(tx, row_state.ordered(row, "operator:alice", fleet.core.now))


@pytest.mark.slow
def test_one_more_message_tells_of_the_patches_and_publication_waited_for_none(
    fleet: DeltaFleet,
) -> None:
    fleet.upgrade(devices=2)
    offered = fleet.core.manifest().counter
    assert fleet.told() == ()
    assert fleet.core.assignment().offer is not None

    fleet.build_all()

    assert fleet.core.manifest().counter == offered + 1
    patch = fleet.told()[0]
    assert (patch.format, patch.base) == ("tensor-delta/1", hashlib.sha256(BASE).hexdigest())
    assert patch.target == hashlib.sha256(TUNED).hexdigest()
    assert patch.patch_length < 0.9 * min(
        each.patch_length for each in fleet.told() if each.base is None
    )
    assert fleet.core.artifacts.length(patch.patch) == patch.patch_length
    assert fleet.core.run().published.classes == ()  # nothing new, no message
    with fleet.core.store.read() as tx:
        assert {each.patch for each in fleet.told()} <= referenced(tx).keys()


def test_every_candidate_is_kept_for_whoever_asks_why(tmp_path: Path) -> None:
    fleet = upgraded(tmp_path)
    build_one(fleet)

    with fleet.core.store.read() as tx:
        (file,) = pairs.explain(tx, pairs.pairs(tx, "vad", "1.0.0", "1.1.0"))

    because = {row["format"]: row["because"] for row in file["candidates"]}
    assert because.keys() == portfolio.FORMATS
    assert because[fleet.row(OLD, NEW).format] == "wins"
    assert not file["pending"]


def test_what_devices_run_is_counted_by_class_without_those_that_are_revoked(
    fleet: DeltaFleet,
) -> None:
    fleet.enrol(3)
    fleet.release("1.0.0", OLD)
    fleet.versions["9.9.9"] = "ee" * 32  # nobody accepted it
    fleet.reports("1.0.0", *fleet.devices[:2])
    fleet.reports("9.9.9", fleet.devices[2])

    with fleet.core.store.read() as tx:
        (found,) = deployed.count(tx)
        live = deployed.live_by_class(tx)

    assert (found.version, found.devices, found.hardware_class) == ("1.0.0", 2, "kiosk-x86")
    assert live == {"kiosk-x86": 3}


def test_a_release_that_is_withdrawn_takes_its_patches_out_of_the_message(
    tmp_path: Path,
) -> None:
    fleet = offered(tmp_path)

    fleet.core.trust.withdraw("1.1.0")
    assert fleet.core.submit("approval-vad").status == "accepted"

    assert fleet.told() == ()
    fleet.look()
    assert fleet.row(OLD, NEW).unwanted_since is not None


def test_when_an_offer_ends_what_was_not_built_is_forgotten(tmp_path: Path) -> None:
    fleet = upgraded(tmp_path)
    target = hashlib.sha256(NEW).hexdigest()
    assert [row.key.target for row in fleet.rows()].count(target) == 2

    fleet.core.tell(fleet.devices[0], EventKind.TRIAL_STARTED, fleet.versions["1.1.0"])
    fleet.core.tell(fleet.devices[0], EventKind.TRIAL_FAILED, fleet.versions["1.1.0"])
    assert fleet.core.rollout("r-1-1-0").phase == "halted"
    fleet.look()

    assert target not in {row.key.target for row in fleet.rows()}


@pytest.mark.parametrize(
    ("program", "why"),
    [
        pytest.param(FALLS_OVER, "status 1: it fell over", marks=pytest.mark.slow),
        (KILLED, "killed by signal 9"),
        pytest.param(OUT_OF_MEMORY, "delta_build_memory_mib = 2048", marks=pytest.mark.slow),
    ],
)
def test_a_builder_that_fails_is_tried_again_a_few_times(
    tmp_path: Path, program: tuple[str, ...], why: str
) -> None:
    fleet = upgraded(tmp_path, program=program)

    build_one(fleet)

    row = fleet.row(OLD, NEW)
    assert (row.state, row.attempts, row.code) == (State.WAITING, 1, "E-DELTA-BUILD")
    assert why in row.error
    for _ in range(row_state.ATTEMPTS_MAX):
        fleet.core.now += timedelta(hours=4)
        while fleet.room.build_next():
            pass
    assert fleet.row(OLD, NEW).state is State.FAILED
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_builder_that_hangs_is_ended_at_its_deadline(tmp_path: Path) -> None:
    fleet = upgraded(tmp_path, program=HANGS, deadline_seconds_min=0.1)

    build_one(fleet)

    assert "took longer than 0 s" in fleet.row(OLD, NEW).error


def test_a_controller_that_stops_ends_its_builder_and_the_next_one_goes_on(
    tmp_path: Path,
) -> None:
    fleet = upgraded(tmp_path, program=HANGS)
    order(fleet)
    building = threading.Thread(target=fleet.room.build_next)
    building.start()
    while fleet.row(OLD, NEW).state is not State.BUILDING:
        pass

    fleet.room.stop()
    building.join(60)

    assert not building.is_alive()
    row = fleet.row(OLD, NEW)
    assert (row.state, row.attempts) == (State.WAITING, 0)
    assert not fleet.room.build_next()


def test_a_controller_that_died_while_it_built_goes_on_and_counts_that(tmp_path: Path) -> None:
    fleet = upgraded(tmp_path)
    with fleet.core.store.transaction() as tx:
        deltas.put(tx, row_state.started(fleet.row(OLD, NEW), fleet.core.now))
    (tmp_path / "scratch" / "left").mkdir(parents=True)

    fleet.room.open()

    row = fleet.row(OLD, NEW)
    assert (row.state, row.attempts, row.next_attempt_at) == (State.WAITING, 1, fleet.core.now)
    assert not (tmp_path / "scratch").exists()


def test_what_takes_the_controller_down_each_time_is_left_alone(tmp_path: Path) -> None:
    fleet = upgraded(tmp_path)
    for _ in range(row_state.ATTEMPTS_MAX):
        with fleet.core.store.transaction() as tx:
            deltas.put(tx, row_state.started(fleet.row(OLD, NEW), fleet.core.now))
        fleet.room.open()

    assert fleet.row(OLD, NEW).state is State.FAILED


def test_a_full_disk_waits_and_uses_up_no_attempt(tmp_path: Path) -> None:
    fleet = upgraded(tmp_path, free_bytes=lambda _path: 64 * MIB)

    build_one(fleet)

    row = fleet.row(OLD, NEW)
    assert (row.state, row.attempts, row.code) == (State.WAITING, 0, "E-DISK-FULL")


def test_a_base_that_vanished_is_a_failure_with_its_name(tmp_path: Path) -> None:
    fleet = upgraded(tmp_path)
    fleet.core.artifacts.delete(hashlib.sha256(OLD).hexdigest())

    build_one(fleet)

    row = fleet.row(OLD, NEW)
    assert (row.state, row.code) == (State.WAITING, "E-ARTIFACT-MISSING")
    assert hashlib.sha256(OLD).hexdigest() in row.error


def test_a_patch_that_changed_after_it_was_checked_is_not_taken(tmp_path: Path) -> None:
    patch = tmp_path / "patch"
    patch.write_bytes(b"another one")
    said = Delta(
        target=hashlib.sha256(NEW).hexdigest(),
        base=hashlib.sha256(OLD).hexdigest(),
        base_length=len(OLD),
        format="zstd-patch/1",
        patch="ab" * 32,
        patch_length=11,
        memory_bytes=1,
    )
    answer = {"delta": said.model_dump(mode="json"), "patch": str(patch), "rows": []}
    fleet = upgraded(tmp_path, program=("echo", json.dumps(answer)))

    build_one(fleet)

    assert "changed after it was checked" in fleet.row(OLD, NEW).error
    assert fleet.told() == ()


def test_a_patch_that_was_built_wrong_never_ships(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A defect of one codec: the next best way is taken, and the row says why."""
    base, target, scratch = tmp_path / "base", tmp_path / "target", tmp_path / "scratch"
    base.write_bytes(OLD)
    target.write_bytes(NEW)
    scratch.mkdir()
    honest = making.make(base, target, memory_bytes_max=256 * MIB, scratch=scratch)
    assert honest.delta is not None
    winner, build = honest.delta.format, portfolio.build

    def defective(*arguments: Any) -> portfolio.Portfolio:
        """The winner's patch is a good one of another file as long as the target."""
        built = build(*arguments)
        for each in built.candidates:
            if each.format == winner:
                elsewhere = tmp_path / "elsewhere"
                elsewhere.mkdir(exist_ok=True)
                others = build(OLD, NEW.replace(b"more", b"else"), elsewhere).candidates
                wrong = next(other for other in others if other.format == winner)
                each.patch.write_bytes(wrong.patch.read_bytes())
        return built

    monkeypatch.setattr(portfolio, "build", defective)
    made = making.make(base, target, memory_bytes_max=256 * MIB, scratch=scratch)

    assert made.delta is None or made.delta.format != winner
    (row,) = [row for row in made.rows if row.format == winner]
    assert "it makes a file with sha256" in row.because


def test_what_a_person_drops_no_device_is_told_of_until_a_person_orders_it(
    tmp_path: Path,
) -> None:
    fleet = offered(tmp_path)

    with fleet.core.store.transaction() as tx:
        chosen = pairs.pairs(tx, "vad", "1.0.0", "1.1.0")
        pairs.drop(tx, chosen, actor="operator:alice", now=fleet.core.now)
    fleet.look()
    fleet.core.run()

    assert fleet.row(OLD, NEW).state is State.DROPPED
    assert fleet.told() == ()
    with fleet.core.store.transaction() as tx:
        pairs.order(tx, chosen, actor="operator:alice", now=fleet.core.now)
    assert fleet.row(OLD, NEW).state is State.WAITING


@pytest.mark.slow
def test_dropping_it_ends_the_process_that_builds_it(tmp_path: Path) -> None:
    fleet = upgraded(tmp_path, program=HANGS)
    order(fleet)
    building = threading.Thread(target=fleet.room.build_next)
    building.start()
    while fleet.row(OLD, NEW).state is not State.BUILDING:
        pass

    with fleet.core.store.transaction() as tx:
        chosen = pairs.pairs(tx, "vad", "1.0.0", "1.1.0")
        pairs.drop(tx, chosen, actor="operator:alice", now=fleet.core.now)
    while building.is_alive():
        fleet.look()
        building.join(0.05)

    assert fleet.row(OLD, NEW).state is State.DROPPED


def damage(fleet: DeltaFleet, digest: str) -> None:
    """A check of the store has found it, and taken it out."""
    path = Path(fleet.core.artifacts.place) / digest[:2] / digest
    path.chmod(0o644)
    path.write_bytes(b"damaged")
    Scrubber(fleet.core.store, fleet.core.artifacts, 1 << 40).run(
        lambda: fleet.core.now, threading.Event()
    )


def test_a_patch_that_was_found_damaged_is_built_again_and_told_of_no_more_till_then(
    tmp_path: Path,
) -> None:
    """Nobody else can: it was never uploaded."""
    fleet = offered(tmp_path)
    patch = fleet.row(OLD, NEW).patch
    damage(fleet, patch)

    assert fleet.look()  # there is something to tell
    fleet.core.run()

    assert fleet.told() == ()
    row = fleet.row(OLD, NEW)
    assert (row.state, row.patch, row.offered) == (State.WAITING, "", False)
    assert not fleet.look()


def test_patches_that_did_not_come_back_with_a_backup_are_built_again(tmp_path: Path) -> None:
    fleet = offered(tmp_path)
    fleet.room.open()
    assert fleet.row(OLD, NEW).state is State.BUILT

    fleet.core.artifacts.delete(fleet.row(OLD, NEW).patch)
    fleet.room.open()

    assert fleet.row(OLD, NEW).state is State.WAITING


def answers_with(tmp_path: Path, patch: bytes) -> tuple[str, ...]:
    """A builder that made this patch from OLD to NEW."""
    (tmp_path / "made").write_bytes(patch)
    said = Delta(
        target=hashlib.sha256(NEW).hexdigest(),
        base=hashlib.sha256(OLD).hexdigest(),
        base_length=len(OLD),
        format="zstd-patch/1",
        patch=hashlib.sha256(patch).hexdigest(),
        patch_length=len(patch),
        memory_bytes=1,
    )
    answer = {"delta": said.model_dump(mode="json"), "patch": str(tmp_path / "made"), "rows": []}
    return ("echo", json.dumps(answer))


def test_a_collection_that_is_quicker_than_the_note_of_a_patch_costs_an_attempt_and_no_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = upgraded(tmp_path, program=answers_with(tmp_path, b"a patch"))
    finish = fleet.room._finish

    def collected_before(key: Key, *rest: Any) -> None:
        fleet.core.artifacts.delete(hashlib.sha256(b"a patch").hexdigest())
        finish(key, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(fleet.room, "_finish", collected_before)
        build_one(fleet)

    row = fleet.row(OLD, NEW)
    assert (row.state, row.attempts, row.code) == (State.WAITING, 1, "E-ARTIFACT-MISSING")

    with fleet.core.store.transaction() as tx:  # from a time when nothing named it
        artifact_life.note_unnamed(tx, [hashlib.sha256(b"a patch").hexdigest()], fleet.core.now)
    build_one(fleet)

    assert fleet.row(OLD, NEW).state is State.BUILT
    with fleet.core.store.read() as tx:
        assert not artifact_life.unnamed(tx)


@pytest.mark.slow
def test_a_database_that_is_busy_when_a_patch_is_ready_leaves_no_row_that_is_built_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = upgraded(tmp_path, program=answers_with(tmp_path, b"a patch"))
    order(fleet)

    def busy(*_what: object) -> None:
        raise ServerUnavailable("The database is busy.", next_step="nothing.")

    with monkeypatch.context() as patched:
        patched.setattr(fleet.room, "_finish", busy)
        with pytest.raises(ServerUnavailable):
            fleet.room.build_next()
    assert fleet.row(OLD, NEW).state is State.BUILDING

    fleet.look()

    assert fleet.row(OLD, NEW).state is State.WAITING


def test_a_database_that_is_busy_when_patches_are_offered_ends_no_controller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = upgraded(tmp_path, program=answers_with(tmp_path, b"a patch"))
    order(fleet)
    asked = threading.Event()

    def busy() -> bool:
        asked.set()
        raise ServerUnavailable("The database is busy.", next_step="nothing.")

    monkeypatch.setattr(fleet.room, "offer", busy)

    async def serve() -> None:
        running = DeltaLoops(fleet.room, at_once=1, tell=lambda: None)
        async with asyncio.timeout(120), asyncio.TaskGroup() as group:
            group.create_task(running.run())
            await asyncio.to_thread(asked.wait, 20)
            running.stop()

    asyncio.run(serve())

    assert asked.is_set()


def test_a_controller_that_stops_waits_for_no_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet, defects = upgraded(tmp_path), threading.Semaphore(0)
    monkeypatch.setattr(loops, "REST_SECONDS_MIN", 60.0)

    def defective() -> bool:
        defects.release()
        raise KeyError("a bug of ours")

    monkeypatch.setattr(fleet.room, "build_next", defective)

    async def serve() -> None:
        running = DeltaLoops(fleet.room, at_once=1, tell=lambda: None)
        async with asyncio.timeout(120), asyncio.TaskGroup() as group:
            group.create_task(running.run())
            await asyncio.to_thread(defects.acquire, timeout=60)
            running.stop()

    asyncio.run(serve())


def test_builders_that_are_busy_leave_the_threads_of_the_controller_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = upgraded(tmp_path)
    building, done = threading.Semaphore(0), threading.Event()

    def builds_for_long() -> bool:
        building.release()
        return not done.wait(60)

    monkeypatch.setattr(fleet.room, "build_next", builds_for_long)

    async def serve() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        running = DeltaLoops(fleet.room, at_once=2, tell=lambda: None)
        async with asyncio.timeout(120), asyncio.TaskGroup() as group:
            group.create_task(running.run())
            for _ in range(2):
                assert await asyncio.to_thread(building.acquire, timeout=60)
            assert await asyncio.to_thread(fleet.row, OLD, NEW)
            running.stop()
            done.set()

    asyncio.run(serve())


@pytest.mark.slow
def test_an_empty_target_is_not_worth_anything(tmp_path: Path) -> None:
    fleet = DeltaFleet(tmp_path)
    fleet.release("1.0.0", OLD, OLD)
    fleet.release("1.1.0", NEW, b"")
    with fleet.core.store.transaction() as tx:
        files = pairs.pairs(tx, "vad", "1.0.0", "1.1.0")
        empty = [pair for pair in files if pair.file.length == 0]
        pairs.order(tx, empty, actor="operator:alice", now=fleet.core.now)

    while fleet.room.build_next():
        pass

    rows = [row for row in fleet.rows() if row.key.target == hashlib.sha256(b"").hexdigest()]
    assert {row.state for row in rows} == {State.NOT_WORTH}
    assert all("empty" in each["because"] for row in rows for each in row.candidates)


@pytest.mark.slow
def test_a_class_with_too_little_memory_gets_files_whole(tmp_path: Path) -> None:
    fleet = DeltaFleet(tmp_path)
    fleet.set_class(memory_budget="1MiB")
    fleet.upgrade(OLD, NEW, devices=1)
    fleet.look()
    build_one(fleet)

    row = fleet.row(OLD, NEW)
    assert row.state is State.NOT_WORTH
    assert any("of memory, the class gives 1" in each["because"] for each in row.candidates)


def test_a_metered_class_is_told_so(fleet: DeltaFleet) -> None:
    fleet.enrol(1)
    fleet.release("1.0.0", OLD)
    assert not fleet.core.desired().metered

    fleet.set_class(metered=True)
    fleet.core.run()

    assert fleet.core.desired().metered


def test_a_class_is_told_what_it_allows_a_release(fleet: DeltaFleet) -> None:
    fleet.enrol(1)
    fleet.release("1.0.0", OLD)
    fleet.core.run()

    fleet.set_class(memory_budget="300MiB", latency_p95_ms_max=40, throughput_per_second_min=30)
    fleet.core.run()

    told = fleet.core.desired().budgets
    assert (told.memory_bytes, told.latency_p95_ms_max) == (300 << 20, 40)
    assert told.throughput_per_second_min == 30


def test_a_message_that_grew_too_large_leaves_its_deltas_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are a hint; that a class hears of a withdrawal is not."""
    fleet = offered(tmp_path)
    room_for = len(fleet.core.manifest().bundle) - 50
    monkeypatch.setattr("mailboat_schemas.desired.ManifestBundle.wire_bytes_max", room_for)
    monkeypatch.setattr("mailboat_schemas.desired.ManifestBundle.unpacked_bytes_max", 16 * room_for)

    fleet.set_class(metered=True)  # something else that is to be told
    done = fleet.core.run()

    assert done.published.problems == {}
    assert fleet.core.desired().metered
    assert fleet.told() == ()


@pytest.mark.slow
def test_the_process_keeps_to_its_memory() -> None:
    """The limit is the kernel's, whatever the builder believes."""
    code = (
        "from mailboat_controller.delta_builds import build_process as b\n"
        "b._limit(0)\n"
        "try:\n    bytearray(2 << 30)\nexcept MemoryError:\n    print('refused')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "refused"


@pytest.mark.slow
def test_the_process_ends_with_its_caller(tmp_path: Path) -> None:
    target = tmp_path / "target"
    with target.open("wb") as file:
        for _ in range(64):
            file.write(hashlib.sha256(file.tell().to_bytes(8, "big")).digest() * 16384)
    order = {
        "base": None,
        "target": str(target),
        "base_length": 0,
        "target_length": target.stat().st_size,
        "decoder_bytes_max": 1 << 28,
        "memory_bytes_max": 1 << 31,
        "scratch": str(tmp_path),
        "whole": [],
    }
    process = subprocess.Popen(PROGRAM, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert process.stdin is not None
    process.stdin.write(json.dumps(order).encode() + b"\n")
    process.stdin.flush()

    process.stdin.close()  # as when the controller is killed

    assert process.wait(60) == 1

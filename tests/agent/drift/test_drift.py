"""Files that rot under a running agent: found, told, repaired; what serves is not touched."""

import asyncio
import errno
import random
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from agent_box import AgentBox
from mailboat_agent.drift.schedule import CHECK_JITTER, CHECK_SECONDS, FIRST_CHECK_SECONDS_MAX
from mailboat_agent.drift.watch import DriftWatch
from mailboat_agent.facts import Look
from mailboat_schemas.events import Event, EventKind
from mailboat_schemas.reports import ModelPhase
from model_fleet import ArtifactServer, Certificates, ModelFleet, affine, golden

Story = Callable[[AgentBox], Awaitable[None]]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> ModelFleet:
    return ModelFleet(tmp_path_factory.mktemp("ceremony"))


@pytest.fixture
def box(tmp_path: Path, fleet: ModelFleet) -> Iterator[AgentBox]:
    certificates = Certificates(tmp_path / "pki")
    server = ArtifactServer(certificates, fleet.artifacts)
    box = AgentBox(tmp_path / "data", fleet, server, certificates)
    yield box
    server.close()


def play(box: AgentBox, story: Story) -> None:
    async def whole() -> None:
        try:
            await story(box)
        finally:
            await box.stop()

    asyncio.run(whole())


def rot(box: AgentBox, content: bytes) -> Path:
    """One bit of the stored file with this content."""
    (path,) = [
        box.store.path(digest)
        for digest in box.store.digests()
        if box.store.path(digest).read_bytes() == content
    ]
    path.chmod(0o600)
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    return path


async def check(box: AgentBox) -> None:
    """One check from its beginning to the look that collects it."""
    before = box.reconciler.drift.status.checked_at
    box.reconciler.drift.ask()
    await box.until(lambda: box.reconciler.drift.status.checked_at != before)


def disk_events(box: AgentBox) -> list[tuple[str, str, object]]:
    kinds = (EventKind.STORAGE_DAMAGED, EventKind.STORAGE_REPAIRED)
    return [(e.kind.value, e.code, e.evidence.get("file")) for e in box.events() if e.kind in kinds]


def test_what_serves_is_repaired_from_its_own_memory_and_nothing_goes_back(
    box: AgentBox, fleet: ModelFleet
) -> None:
    async def story(box: AgentBox) -> None:
        a = fleet.model_release("1.0.0", factor=2.0)
        await box.install(fleet.current(a), "1.0.0")
        before, requests = box.state, len(box.server.requests)
        path = rot(box, affine(2.0))
        await check(box)

        assert path.read_bytes() == affine(2.0)
        assert box.state == before
        assert box.serving == "1.0.0"
        assert len(box.server.requests) == requests
        assert disk_events(box) == [
            ("storage_damaged", "vad", "m.onnx"),
            ("storage_repaired", "memory", "m.onnx"),
        ]
        status = box.reconciler.drift.status
        assert (status.files, status.damaged, status.repaired) == (3, (), 1)
        # The evidence stays, and the next check finds nothing.
        assert len(list(box.store.set_aside.directory.iterdir())) == 1
        await check(box)
        assert len(disk_events(box)) == 2

    play(box, story)


@pytest.mark.slow
def test_what_no_memory_holds_is_delivered_again_and_noted_until_then(
    box: AgentBox, fleet: ModelFleet
) -> None:
    async def story(box: AgentBox) -> None:
        a = fleet.model_release("1.0.0", factor=2.0)
        await box.install(fleet.current(a), "1.0.0")
        there = dict(box.server.artifacts)
        box.server.artifacts.clear()
        rot(box, golden(2.0))
        await check(box)
        for _ in range(3):
            await box.step()
        assert box.serving == "1.0.0"
        assert box.state.phase is ModelPhase.COMMITTED
        assert box.reconciler.drift.notes == ["storage_damaged:vad"]
        assert box.reconciler.drift.status.damaged == ("vad 1.0.0 golden.npz",)

        # Another life of the agent knows what is still lacking.
        await box.restart()
        box.reconciler.begin_serving(box.now(), asyncio.get_running_loop().time())
        await box.step()
        assert box.reconciler.drift.notes == ["storage_damaged:vad"]

        box.server.artifacts.update(there)
        await box.until(lambda: not box.reconciler.drift.notes)
        assert disk_events(box) == [
            ("storage_damaged", "vad", "golden.npz"),
            ("storage_repaired", "delivery", "golden.npz"),
        ]
        assert "returned 1.0.0" not in box.told()

    play(box, story)


@pytest.mark.slow
def test_the_predecessor_is_repaired_too(box: AgentBox, fleet: ModelFleet) -> None:
    async def story(box: AgentBox) -> None:
        a, b = (fleet.model_release(f"{n}.0.0", factor=float(n)) for n in (2, 3))
        await box.install(fleet.current(a), "2.0.0")
        await box.install(fleet.current(b), "3.0.0")
        path = rot(box, affine(2.0))
        await check(box)
        await box.until(lambda: path.exists() and path.read_bytes() == affine(2.0))
        await box.step()

        assert disk_events(box) == [
            ("storage_damaged", "vad", "m.onnx"),
            ("storage_repaired", "delivery", "m.onnx"),
        ]
        assert (box.serving, box.state.phase) == ("3.0.0", ModelPhase.COMMITTED)

    play(box, story)


@pytest.mark.slow
def test_damage_that_nothing_repairs_is_met_at_the_next_start_by_the_one_before(
    box: AgentBox, fleet: ModelFleet
) -> None:
    async def story(box: AgentBox) -> None:
        a, b = (fleet.model_release(f"{n}.0.0", factor=float(n)) for n in (2, 3))
        await box.install(fleet.current(a), "2.0.0")
        await box.install(fleet.current(b), "3.0.0")
        box.server.artifacts.clear()
        rot(box, golden(3.0))
        await check(box)
        for _ in range(3):
            await box.step()
        assert box.serving == "3.0.0"

        await box.restart()
        await box.until(lambda: box.committed("2.0.0"))
        assert "returned 3.0.0" in box.told()

    play(box, story)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["state", "trust", "highest", "manifest", "document"])
@pytest.mark.parametrize("how", ["zeroed", "truncated", "garbage", "gone", "directory"])
def test_our_own_files_are_written_again_from_memory(
    box: AgentBox, fleet: ModelFleet, what: str, how: str
) -> None:
    async def story(box: AgentBox) -> None:
        a = fleet.model_release("1.0.0")
        await box.install(fleet.current(a), "1.0.0")
        sets = sorted(path for path in (box.directory / "trust").iterdir() if path.is_dir())
        (manifest,) = (box.directory / "manifests").iterdir()
        path = {
            "state": box.directory / "state.json",
            "trust": sets[-1] / "snapshot.json",
            "highest": box.directory / "trust" / "highest.json",
            "manifest": manifest,
            "document": box.store.path(a.digest),
        }[what]
        content = path.read_bytes()
        path.chmod(0o600)
        path.unlink()
        if how == "directory":
            path.mkdir()
        elif how != "gone":
            damaged = {"zeroed": bytes(len(content)), "truncated": content[:20], "garbage": b"{x"}
            path.write_bytes(damaged[how])
        await check(box)

        codes = {"highest": "trust", "document": "vad"}
        told = [(kind, code) for kind, code, _ in disk_events(box)]
        if what == "document" and how in ("gone", "directory"):
            # The loop may miss it before the check does, and puts it back without a word.
            assert box.store.path(a.digest).is_file()
        else:
            assert told[0] == ("storage_damaged", codes.get(what, what))
        await box.until(lambda: not box.reconciler.drift.notes)
        assert box.serving == "1.0.0"
        # And a device that starts from it knows everything.
        before = (box.state, box.ledger.state.manifest_counter)
        await box.restart()
        box.reconciler.begin_serving(box.now(), asyncio.get_running_loop().time())
        await box.until(lambda: box.serving == "1.0.0")
        assert (box.state, box.ledger.state.manifest_counter) == before
        assert box.manifest.desired is not None
        assert "manifest_refused" not in box.told()

    play(box, story)


@pytest.mark.slow
def test_a_journal_damaged_under_the_agent_is_told_and_what_the_state_implies_with_it(
    box: AgentBox, fleet: ModelFleet
) -> None:
    async def story(box: AgentBox) -> None:
        await box.install(fleet.current(fleet.model_release("1.0.0")), "1.0.0")
        box.journal.close()
        path = box.directory / "journal.db"
        content = bytearray(path.read_bytes())
        content[4096:] = random.Random(1).randbytes(len(content) - 4096)
        path.write_bytes(content)
        await check(box)
        await box.step()

        assert ("storage_damaged", "journal", None) in disk_events(box)
        assert "committed 1.0.0" in box.told()
        assert box.serving == "1.0.0"

    play(box, story)


# --- when ----------------------------------------------------------------------------------------


def test_the_first_check_comes_within_an_hour_and_the_next_a_day_later(
    box: AgentBox, fleet: ModelFleet
) -> None:
    async def story(box: AgentBox) -> None:
        firsts, seconds = [], []
        for seed in range(30):
            watch = DriftWatch(
                store=box.store,
                manifest=box.manifest,
                ledger=box.ledger,
                memory=lambda *_: None,
                rng=random.Random(seed),
            )
            firsts.append(await began(watch, box, after=1000.0, every=10))
            seconds.append(await began(watch, box, after=firsts[-1], every=600) - firsts[-1])

        first = [at - 1000.0 for at in firsts]
        assert min(first) >= FIRST_CHECK_SECONDS_MAX / 2
        assert max(first) <= FIRST_CHECK_SECONDS_MAX + 10
        assert max(first) - min(first) > 600  # a fleet does not read in step
        assert min(seconds) >= CHECK_SECONDS * (1 - CHECK_JITTER) - 600
        assert max(seconds) <= CHECK_SECONDS * (1 + CHECK_JITTER) + 600

    play(box, story)


async def began(watch: DriftWatch, box: AgentBox, *, after: float, every: int) -> float:
    """The monotonic time of the look, one each ``every`` seconds, at which a check began."""
    before = watch.status.checked_at
    monotonic = after
    while True:
        monotonic += every
        look = Look(now=box.now(), monotonic=monotonic, clock_trusted=True, trust_fresh=True)
        watch.step([], look)
        if watch._task is not None:
            await asyncio.wait([watch._task])
            watch.step([], look)
            assert watch.status.checked_at != before
            return monotonic


def test_events_of_damage_have_numbers_of_their_own(box: AgentBox, fleet: ModelFleet) -> None:
    """The same file may be damaged twice in one life, and both times are told."""

    async def story(box: AgentBox) -> None:
        await box.step()
        watch = box.reconciler.drift
        ids = {watch._number() for _ in range(3)}
        assert len(ids) == 3
        for number in ids:
            Event(event_id=f"drift:{number}", sequence=1, kind=EventKind.COMMITTED, observed_at=0)

    play(box, story)


@pytest.mark.slow
def test_a_link_that_is_down_is_no_reason_to_try_something_new_beside_what_is_damaged(
    box: AgentBox, fleet: ModelFleet
) -> None:
    """It serves from memory alone: after a failed trial there would be nowhere to go back to."""

    async def story(box: AgentBox) -> None:
        a = fleet.model_release("1.0.0", factor=2.0)
        await box.install(fleet.current(a), "1.0.0")
        box.server.refuses = 500
        rot(box, golden(2.0))
        await check(box)
        b = fleet.model_release("1.1.0", factor=3.0)
        for content in (affine(3.0), golden(3.0)):
            box.store.put(content)
        loop, asked = box.reconciler.loops["vad"], len(box.server.requests)
        box.take(fleet.offered(b, a))
        await box.until(lambda: len(box.server.requests) > asked and loop.work is None)
        for _ in range(3):
            await box.step()
        assert "trial_started 1.1.0" not in box.told()

        box.server.refuses = 0
        loop.on_new_manifest()
        await box.until(lambda: box.committed("1.1.0"))
        assert not box.reconciler.drift.notes

    play(box, story)


@pytest.mark.slow
def test_damage_on_a_disk_gone_read_only_is_told_once_and_never_called_repaired(
    box: AgentBox, fleet: ModelFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_path: Path, _target: Path) -> Path:
        raise OSError(errno.EROFS, "Read-only file system")

    async def story(box: AgentBox) -> None:
        a = fleet.model_release("1.0.0", factor=2.0)
        await box.install(fleet.current(a), "1.0.0")
        path = rot(box, golden(2.0))
        with monkeypatch.context() as read_only:
            read_only.setattr(Path, "replace", refused)
            for _ in range(2):
                await check(box)
                await box.step()
            assert box.reconciler.drift.status.damaged == ("vad 1.0.0 golden.npz",)
            assert disk_events(box) == [("storage_damaged", "vad", "golden.npz")]
        path.write_bytes(golden(2.0))  # somebody has repaired the disk
        await check(box)
        await box.step()
        assert box.reconciler.drift.status.damaged == ()
        assert disk_events(box)[-1] == ("storage_repaired", "delivery", "golden.npz")

    play(box, story)

"""Somebody who can write to the disk, after a release was verified."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from agent_box import AgentBox
from mailboat_agent import sealed_memory, verified_files
from mailboat_agent.artifacts.release_store import ReleaseStore
from model_fleet import MODEL, ArtifactServer, Certificates, ModelFleet, affine


@pytest.fixture
def box(
    tmp_path: Path, fleet: ModelFleet, server: ArtifactServer, certificates: Certificates
) -> AgentBox:
    return AgentBox(tmp_path / "data", fleet, server, certificates)


def overwrite(box: AgentBox, content: bytes, with_what: bytes) -> None:
    """As root would, or a bad disk: the same inode, other bytes."""
    (path,) = [
        box.store.path(digest)
        for digest in box.store.digests()
        if box.store.path(digest).read_bytes() == content
    ]
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.write(with_what[: len(content)].ljust(len(content)))
        os.fsync(file.fileno())


@pytest.mark.slow
def test_what_serves_was_verified_whatever_the_disk_says_later(
    box: AgentBox, fleet: ModelFleet
) -> None:
    """The worker is started again from memory, not from the altered file."""

    async def story() -> None:
        release = fleet.model_release("1.0.0", factor=2.0)
        await box.install(fleet.current(release), "1.0.0")
        overwrite(box, affine(2.0), affine(3.0))
        first = box.runtime.worker_pid(MODEL)
        os.kill(first, signal.SIGKILL)
        await box.until(lambda: box.runtime.worker_pid(MODEL) != first and box.runtime.ready(MODEL))
        await box.stop()

    asyncio.run(story())


def test_bytes_swapped_between_verifying_and_loading_are_told_as_an_attack(
    box: AgentBox, fleet: ModelFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model too large for memory stays a file: the worker compares what it has read."""
    monkeypatch.setattr(sealed_memory, "IN_MEMORY_BYTES_MAX", 0)
    verified = ReleaseStore.open_verified
    swaps = iter([True])

    def open_then_swap(store: ReleaseStore, digest: str) -> int:
        descriptor = verified(store, digest)
        if store.path(digest).read_bytes() == affine(2.0) and next(swaps, False):
            overwrite(box, affine(2.0), affine(3.0))
        return descriptor

    async def story() -> None:
        release = fleet.model_release("1.0.0", factor=2.0)
        monkeypatch.setattr(ReleaseStore, "open_verified", open_then_swap)
        await box.install(fleet.current(release), "1.0.0")
        told = [(event.kind, event.code) for event in box.events()]
        await box.stop()

        assert ("security", "E-MODEL-ALTERED") in told
        assert "trial_failed" not in {kind for kind, _ in told}  # it says nothing of the release

    asyncio.run(story())


@pytest.mark.slow
def test_without_an_attack_models_come_from_sealed_memory(
    box: AgentBox, fleet: ModelFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    handed_over = []
    original = verified_files.in_memory

    def note(descriptor: int, digest: str) -> int:
        memory = original(descriptor, digest)
        handed_over.append(sealed_memory.is_sealed(memory))
        return memory

    async def story() -> None:
        monkeypatch.setattr(verified_files, "in_memory", note)
        await box.install(fleet.current(fleet.model_release("1.0.0", factor=2.0)), "1.0.0")
        await box.stop()

    asyncio.run(story())

    assert len(handed_over) >= 3  # model and golden samples for the trial, the model to serve
    assert all(handed_over)

"""The delta room on a real disk, before a real server: interruptions of every kind."""

import asyncio
import errno
import random
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from kill_points import killed_at_each_point, refused_at_each_point
from mailboat_agent.artifacts.download import HttpsSource
from mailboat_agent.artifacts.refusals import ServerBusy
from mailboat_agent.artifacts.release_store import ReleaseStore
from mailboat_agent.atomic_file import DiskFailing
from mailboat_agent.delta.attempts import ATTEMPTS_MAX, Attempts
from mailboat_agent.delta.choice import Offered
from mailboat_agent.delta.decoding import Decoding
from mailboat_agent.delta.delivery import Tally
from mailboat_agent.delta.failure import Reason
from mailboat_agent.delta.room import BARREN_TRANSFERS_MAX, DeltaRoom
from mailboat_agent.identity.device_key import tls_context
from mailboat_controller.deltas.zstd_patch import build_zstd_patch, describe
from mailboat_schemas.errors import DiskFull, DownloadInterrupted, ServerUnavailable
from model_fleet import MIB, ArtifactServer, Certificates
from patched_fleet import sha256
from rogue_server import Server, answering, certificates_in

BASE = random.Random(1).randbytes(1_000_000)  # written in sixteen pieces or more
TARGET = BASE[:500_000] + b"something new" + BASE[500_000:]
PATCH = build_zstd_patch(BASE, TARGET)
DELTA = describe(BASE, TARGET, PATCH)
OFFERED = Offered("director:1", (DELTA,))
HANGS = (sys.executable, "-c", "import time; time.sleep(60)")


class Device:
    """A store with the base, and a room."""

    def __init__(self, server: ArtifactServer, certificates: Certificates) -> None:
        self._server = server
        self._tls = tls_context(certificates.ca_path)

    def prepare(self, directory: Path) -> None:
        ReleaseStore(directory).put(BASE)

    def bring(
        self, directory: Path, tally: Tally | None = None, program: tuple[str, ...] | None = None
    ) -> bool:
        return asyncio.run(self._bring(directory, tally or Tally(), program))

    async def _bring(self, directory: Path, tally: Tally, program: tuple[str, ...] | None) -> bool:
        source = HttpsSource(self._server.url, self._tls, rate_window_seconds=0.3)
        try:
            room = self.room(directory, source, program)
            return await room.bring(DELTA.target, len(TARGET), OFFERED, tally, lambda _: None)
        finally:
            await source.close()

    def room(
        self, directory: Path, source: HttpsSource, program: tuple[str, ...] | None = None
    ) -> DeltaRoom:
        return DeltaRoom(
            store=ReleaseStore(directory),
            source=lambda: source,
            memory_budget_bytes=64 * MIB,
            decoding=Decoding if program is None else partial(Decoding, program=program),
        )

    async def cancelled(self, directory: Path) -> None:
        """Given up while a decoder that never ends is at work."""
        source = HttpsSource(self._server.url, self._tls)
        room = self.room(directory, source, HANGS)
        task = asyncio.create_task(
            room.bring(DELTA.target, len(TARGET), OFFERED, Tally(), lambda _: None)
        )
        output = directory / "staging" / f"{DELTA.target}.delta"
        while not output.exists():  # noqa: ASYNC110 - a file tells nobody that it is there
            await asyncio.sleep(0.02)
        task.cancel()
        await asyncio.wait([task])
        await source.close()


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    certificates = Certificates(tmp_path / "pki")
    server = ArtifactServer(certificates, {DELTA.patch: PATCH.content})
    yield Device(server, certificates)
    server.close()


def files(directory: Path, folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (directory / folder).iterdir()}


def assert_nothing_wrong(directory: Path) -> None:
    """Whatever is in the store is what its name says; what looks finished, is."""
    for name, content in files(directory, "store").items():
        assert sha256(content) == name
    finished = files(directory, "staging").get(f"{DELTA.target}.part")
    assert finished in (None, TARGET)


def test_a_file_is_made_from_a_patch_and_the_patch_is_not_kept(
    tmp_path: Path, device: Device
) -> None:
    device.prepare(tmp_path)
    tally = Tally()

    assert device.bring(tmp_path, tally)
    assert files(tmp_path, "store").keys() == {DELTA.base, DELTA.target}
    assert files(tmp_path, "staging") == {}
    assert (tally.fetched_bytes, tally.made_bytes) == (len(PATCH.content), len(TARGET))


def test_a_transfer_that_was_cut_is_no_reason_to_give_up_the_patch(
    tmp_path: Path, device: Device
) -> None:
    device.prepare(tmp_path)
    device._server.stalls = True
    with pytest.raises(DownloadInterrupted):
        device.bring(tmp_path)
    device._server.stalls = False

    assert device.bring(tmp_path)


def test_a_patch_that_took_the_device_down_twice_is_told_and_not_tried_again(
    tmp_path: Path, device: Device
) -> None:
    device.prepare(tmp_path)
    for _ in range(ATTEMPTS_MAX):
        Attempts(tmp_path).count(OFFERED.desired, DELTA.target)
    first, second = Tally(), Tally()

    assert not device.bring(tmp_path, first)
    assert not device.bring(tmp_path, second)
    assert device._server.requests == []
    assert [each.error.reason for each in first.failed] == ["tried_before"]
    assert second.failed == []


def test_an_attempt_is_on_disk_before_it_begins(tmp_path: Path, device: Device) -> None:
    """The decoder looks; it says that all is well only if it is counted already."""
    device.prepare(tmp_path)
    look = f"import json; json.load(open({str(tmp_path / 'deltas.json')!r}))['targets'].popitem()"
    tally = Tally()

    assert not device.bring(tmp_path, tally, (sys.executable, "-c", look))
    assert [each.error.reason for each in tally.failed] == ["output_too_short"]


def test_when_the_release_is_not_wanted_any_more_the_decoder_ends(
    tmp_path: Path, device: Device
) -> None:
    device.prepare(tmp_path)
    asyncio.run(device.cancelled(tmp_path))
    began = time.monotonic()
    while children_at(b"sleep(60)"):
        assert time.monotonic() - began < 40, "the decoder lives on"
        time.sleep(0.05)

    assert files(tmp_path, "store").keys() == {DELTA.base}
    assert_nothing_wrong(tmp_path)


def children_at(words: bytes) -> list[str]:
    """Processes of this one's with these words in their command line."""
    found = []
    for children in Path("/proc/self/task").glob("*/children"):
        for child in children.read_text().split():
            with suppress(OSError):
                if words in Path(f"/proc/{child}/cmdline").read_bytes():
                    found.append(child)
    return found


def check_power_cuts(tmp_path: Path, device: Device, step: int) -> None:
    for directory in killed_at_each_point(tmp_path, device.prepare, device.bring, step=step):
        assert_nothing_wrong(directory)
        if not ReleaseStore(directory).has(DELTA.target):
            device.bring(directory)  # again, or not at all: then it is fetched whole
            assert_nothing_wrong(directory)
    assert ReleaseStore(directory).has(DELTA.target)


def check_full_disk(tmp_path: Path, device: Device, step: int) -> None:
    for directory in refused_at_each_point(
        tmp_path,
        device.prepare,
        device.bring,
        error=errno.ENOSPC,
        expected=(DiskFull, DiskFailing),
        step=step,
    ):
        assert_nothing_wrong(directory)
    assert ReleaseStore(directory).has(DELTA.target)


def test_power_may_fail_at_any_step(tmp_path: Path, device: Device) -> None:
    check_power_cuts(tmp_path, device, step=11)


def test_the_disk_may_be_full_at_any_step(tmp_path: Path, device: Device) -> None:
    check_full_disk(tmp_path, device, step=11)


@pytest.mark.slow
def test_power_may_fail_at_each_step(tmp_path: Path, device: Device) -> None:
    check_power_cuts(tmp_path, device, step=1)


@pytest.mark.slow
def test_the_disk_may_be_full_at_each_step(tmp_path: Path, device: Device) -> None:
    check_full_disk(tmp_path, device, step=1)


def test_a_server_that_keeps_back_the_patch_alone_does_not_keep_back_the_release(
    tmp_path: Path, device: Device
) -> None:
    """It is fetched whole this time; another time the patch may be had again."""
    device.prepare(tmp_path / "box")

    async def story() -> None:
        async with Server(*certificates_in(tmp_path)).source(answering("500 Broken")) as source:
            room, tally = device.room(tmp_path / "box", source), Tally()
            for _ in range(2 * BARREN_TRANSFERS_MAX):
                with suppress(ServerUnavailable):
                    if not await room.bring(
                        DELTA.target, len(TARGET), OFFERED, tally, lambda _: None
                    ):
                        break
            else:
                raise AssertionError("it waits for the patch for ever")
            assert [failed.error.reason for failed in tally.failed] == [Reason.PATCH_INTERRUPTED]

    asyncio.run(story())
    assert device.bring(tmp_path / "box")


def test_a_server_that_asks_to_wait_is_no_reason_to_fetch_it_whole(
    tmp_path: Path, device: Device
) -> None:
    device.prepare(tmp_path / "box")

    async def story() -> None:
        busy = answering("503 Busy", Retry_After=5)
        async with Server(*certificates_in(tmp_path)).source(busy) as source:
            room = device.room(tmp_path / "box", source)
            for _ in range(2 * BARREN_TRANSFERS_MAX):
                with pytest.raises(ServerBusy):
                    await room.bring(DELTA.target, len(TARGET), OFFERED, Tally(), lambda _: None)

    asyncio.run(story())


def test_an_outage_of_days_is_told_once_and_not_at_all_if_the_patch_comes_in_the_end(
    tmp_path: Path, device: Device
) -> None:
    device.prepare(tmp_path / "box")
    tally = Tally()

    async def story() -> None:
        async with Server(*certificates_in(tmp_path)).source(answering("502 Down")) as source:
            room = device.room(tmp_path / "box", source)
            for _ in range(5 * BARREN_TRANSFERS_MAX):
                with suppress(ServerUnavailable):
                    await room.bring(DELTA.target, len(TARGET), OFFERED, tally, lambda _: None)

    asyncio.run(story())
    assert len(tally.failed) == 1
    assert tally.fetched_bytes == 0

    assert device.bring(tmp_path / "box", tally)
    assert tally.failed == []

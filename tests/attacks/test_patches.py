"""Patches from a thief of the director's key, or of the artifact store: signed names, wrong bytes.

Each costs the device one patch, is told with its reason, and the release arrives whole.
"""

import hashlib
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from attack_siege import FACTOR, Siege
from mailboat_agent.artifacts.arrivals import Arrivals
from mailboat_agent.artifacts.download import HttpsSource
from mailboat_agent.artifacts.part_file import Hashed, Progress
from mailboat_agent.delta.decoding import Decoding
from mailboat_agent.delta.failure import Reason
from mailboat_agent.delta.room import DeltaRoom
from mailboat_controller.deltas.zstd_patch import build_zstd_patch
from mailboat_schemas.deltas import Delivery, DeliveryOutcome, Delta, delivery_of
from mailboat_schemas.events import EventKind
from model_fleet import MIB, MODEL, affine
from patched_fleet import frame, heavy, offer_patch, zeros

# In `make test-all` and `pytest tests/attacks`; the quick suite tests each defence in its own room.
pytestmark = pytest.mark.slow

BASE, TARGET = affine(FACTOR), heavy(3.0)
GIB = 1 << 30


async def fetch(siege: Siege) -> None:
    """Offer 1.1.0, whose model is ``TARGET``, with the delta that the fleet names by now."""
    second = siege.fleet.model_release("1.1.0", model=TARGET, factor=3.0)
    assert siege.box.take(siege.fleet.offered(second, siege.current))
    siege.remember()
    await siege.until_served("1.1.0")


def delivered(siege: Siege) -> Delivery:
    events = [e for e in siege.box.events() if e.kind is EventKind.TRIAL_STARTED]
    delivery = delivery_of(events[-1].evidence)
    assert delivery is not None
    return delivery


def whole(delta: Delta) -> str:
    return f"/v1/artifacts/sha256/{delta.target}"


async def attempt(siege: Siege, delta: Delta) -> None:
    """Likewise, but the file itself is not there yet: the device asks for it, and serves on."""
    second = siege.fleet.model_release("1.1.0", model=TARGET, factor=3.0)
    del siege.fleet.artifacts[delta.target]
    assert siege.box.take(siege.fleet.offered(second, siege.current))
    siege.remember()

    def asked_for_the_whole() -> bool:
        if whole(delta) in siege.server.requests:
            return True
        siege.box.reconciler.loops[MODEL]._staging.forget()  # what failed is tried again at once
        return False

    await siege.box.until(asked_for_the_whole)


async def assert_refused(siege: Siege, *reasons: Reason) -> None:
    """Told once, with one of these reasons; nothing of it is kept, and it serves on."""
    told = [event for event in siege.alarms() if event.code == "E-DELTA"]
    assert [event.kind for event in told] == [EventKind.SECURITY]
    assert told[0].evidence["reason"] in reasons
    await assert_nothing_wrong_is_kept(siege)
    await siege.assert_serves()


async def assert_nothing_wrong_is_kept(siege: Siege) -> None:
    for path in (siege.box.directory / "store").iterdir():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
    left = [path.stat().st_size for path in (siege.box.directory / "staging").iterdir()]
    assert sum(left) == 0


async def refused(siege: Siege, patch: bytes | None, *reasons: Reason) -> None:
    await attempt(siege, offer_patch(siege.fleet, BASE, TARGET, patch))
    await assert_refused(siege, *reasons)


# --- not an attack -------------------------------------------------------------------------------


async def test_an_honest_patch_saves_the_download(siege: Siege) -> None:
    delta = offer_patch(siege.fleet, BASE, TARGET)
    await fetch(siege)

    assert whole(delta) not in siege.server.requests
    assert siege.alarms() == []
    assert delivered(siege).outcome is DeliveryOutcome.DELTA
    assert delivered(siege).made_bytes == len(TARGET)
    assert delivered(siege).fetched_bytes < len(TARGET) * 0.6
    await assert_nothing_wrong_is_kept(siege)
    await siege.assert_serves("1.1.0", 3.0)


# --- the patch -----------------------------------------------------------------------------------


async def test_an_altered_patch(siege: Siege) -> None:
    delta = offer_patch(siege.fleet, BASE, TARGET)
    honest = siege.fleet.artifacts[delta.patch]
    siege.fleet.artifacts[delta.patch] = honest[:-1] + bytes([honest[-1] ^ 1])
    await fetch(siege)

    assert [event.evidence["reason"] for event in siege.alarms()] == ["patch_altered"]
    assert delivered(siege).outcome is DeliveryOutcome.DELTA_FAILED_THEN_FULL
    assert delivered(siege).reasons == (Reason.PATCH_ALTERED,)
    assert delivered(siege).made_bytes == 0
    await assert_nothing_wrong_is_kept(siege)
    await siege.assert_serves("1.1.0", 3.0)


async def test_a_patch_that_somebody_writes_to_after_it_was_hashed(siege: Siege) -> None:
    class Swapped(HttpsSource):
        async def fetch_artifact(
            self,
            digest: str,
            length: int,
            target: Path,
            on_progress: Progress | None = None,
            arrivals: Arrivals | None = None,
        ) -> Hashed:
            hashed = await super().fetch_artifact(digest, length, target, on_progress, arrivals)
            if digest == delta.patch:
                with target.open("r+b") as file:
                    file.write(b"swapped")
            return hashed

    delta = offer_patch(siege.fleet, BASE, TARGET)
    await siege.box.source.close()
    siege.box.source = Swapped(siege.server.url, siege.box._tls)
    await attempt(siege, delta)
    await assert_refused(siege, Reason.PATCH_ALTERED)


async def test_a_patch_longer_than_its_name_says(siege: Siege) -> None:
    delta = offer_patch(siege.fleet, BASE, TARGET)
    siege.fleet.artifacts[delta.patch] += b"!"
    await attempt(siege, delta)
    await assert_refused(siege, Reason.PATCH_TOO_LONG)


async def test_a_patch_that_never_comes_to_its_end(siege: Siege) -> None:
    """Which may be the network's fault: it is no alarm, and the release is not kept back."""
    delta = offer_patch(siege.fleet, BASE, TARGET)
    siege.fleet.artifacts[delta.patch] = siege.fleet.artifacts[delta.patch][:-1]
    await attempt(siege, delta)
    assert siege.alarms() == []
    await assert_nothing_wrong_is_kept(siege)
    await siege.assert_serves()


async def test_a_patch_that_is_not_there(siege: Siege) -> None:
    delta = offer_patch(siege.fleet, BASE, TARGET)
    del siege.fleet.artifacts[delta.patch]
    await attempt(siege, delta)
    assert siege.alarms() == []
    await assert_nothing_wrong_is_kept(siege)
    await siege.assert_serves()


async def test_a_patch_that_was_cut_before_it_was_signed(siege: Siege) -> None:
    await refused(siege, build_zstd_patch(BASE, TARGET).content[:-9], Reason.OUTPUT_TOO_SHORT)


async def test_a_patch_that_is_no_frame_at_all(siege: Siege) -> None:
    await refused(siege, b"\x50\x2a\x4d\x18" + bytes(60), Reason.PATCH_MALFORMED)


async def test_a_patch_with_a_damaged_block(siege: Siege) -> None:
    content = bytearray(build_zstd_patch(BASE, TARGET).content)
    content[15] |= 0b110  # a reserved type of block
    await refused(siege, bytes(content), Reason.PATCH_MALFORMED)


# --- what it makes -------------------------------------------------------------------------------


async def test_a_patch_that_makes_another_model(siege: Siege) -> None:
    """The thief's own model, of the very length that was signed."""
    other = heavy(6.0)
    assert len(other) == len(TARGET)
    await refused(siege, build_zstd_patch(BASE, other).content, Reason.OUTPUT_DIFFERS)


async def test_the_right_patch_for_another_base(siege: Siege) -> None:
    patch = build_zstd_patch(heavy(2.0), TARGET).content
    # References into a base that is not there: it decodes to nothing, or to something else.
    await refused(siege, patch, Reason.PATCH_MALFORMED, Reason.OUTPUT_DIFFERS)


async def test_a_patch_that_makes_more_than_was_signed(siege: Siege) -> None:
    longer = build_zstd_patch(BASE, TARGET + b"!").content
    await refused(siege, longer, Reason.LENGTH_DIFFERS)


async def test_a_patch_that_makes_less_than_was_signed(siege: Siege) -> None:
    shorter = build_zstd_patch(BASE, TARGET[:-1]).content
    await refused(siege, shorter, Reason.LENGTH_DIFFERS)


async def test_a_patch_that_announces_the_signed_length_and_makes_less(siege: Siege) -> None:
    await refused(
        siege,
        frame(zeros(len(TARGET) - 1), content_size=len(TARGET)),
        Reason.PATCH_MALFORMED,
    )


async def test_a_patch_that_does_not_announce_its_length(siege: Siege) -> None:
    unsaid = frame(zeros(len(TARGET)), content_size=None, window_log=18)
    await refused(siege, unsaid, Reason.LENGTH_DIFFERS)


# --- bombs ---------------------------------------------------------------------------------------


async def test_a_bomb_of_two_gigabytes_in_sixty_five_kilobytes(siege: Siege) -> None:
    bomb = frame(zeros(2 * GIB), content_size=2 * GIB)
    assert len(bomb) < 66_000
    await refused(siege, bomb, Reason.LENGTH_DIFFERS)


async def test_a_bomb_that_announces_the_signed_length(siege: Siege) -> None:
    bomb = frame(zeros(2 * GIB), content_size=len(TARGET), window_log=17)
    # Whoever counts first: the decoder, or the agent.
    await refused(siege, bomb, Reason.PATCH_MALFORMED, Reason.OUTPUT_TOO_LONG)


async def test_a_frame_that_asks_for_a_window_of_two_gigabytes(siege: Siege) -> None:
    hungry = frame(zeros(len(TARGET)), content_size=len(TARGET), window_log=31)
    await refused(siege, hungry, Reason.WINDOW_TOO_LARGE)


# --- the base ------------------------------------------------------------------------------------


async def test_a_base_that_was_altered_on_the_disk(siege: Siege) -> None:
    class Altering(HttpsSource):
        """Just before the base is needed: the device heals what it finds altered earlier."""

        async def fetch_artifact(self, digest: str, *more: Any, **named: Any) -> Hashed:
            hashed = await super().fetch_artifact(digest, *more, **named)
            if digest == delta.patch:
                stored = siege.box.store.path(delta.base)
                stored.chmod(0o600)
                stored.write_bytes(BASE[:-1] + b"!")
            return hashed

    delta = offer_patch(siege.fleet, BASE, TARGET)
    assert delta.base is not None
    await siege.box.source.close()
    siege.box.source = Altering(siege.server.url, siege.box._tls)
    await attempt(siege, delta)
    told = [event.evidence.get("reason") for event in siege.alarms() if event.code == "E-DELTA"]
    assert told == [Reason.BASE_DAMAGED]
    assert EventKind.STORAGE_DAMAGED in [event.kind for event in siege.alarms()]
    assert (siege.box.directory / "damaged" / delta.base).exists()


async def lies_are_passed_over(siege: Siege, **says: Any) -> None:
    delta = offer_patch(siege.fleet, BASE, TARGET, **says)
    await attempt(siege, delta)
    assert f"/v1/artifacts/sha256/{delta.patch}" not in siege.server.requests
    assert siege.alarms() == []
    await siege.assert_serves()


async def test_a_base_of_another_length(siege: Siege) -> None:
    await lies_are_passed_over(siege, base_length=len(BASE) + 1)


async def test_a_base_that_the_device_does_not_have(siege: Siege) -> None:
    await lies_are_passed_over(siege, base="ab" * 32)


async def test_a_patch_that_wants_more_memory_than_the_class_has(siege: Siege) -> None:
    await lies_are_passed_over(siege, memory_bytes=513 * MIB)


async def test_a_format_that_nobody_knows(siege: Siege) -> None:
    await lies_are_passed_over(siege, format="zstd-patch/2")


async def test_a_patch_larger_than_what_it_makes(siege: Siege) -> None:
    await lies_are_passed_over(siege, patch_length=len(TARGET))


# --- the process that decodes --------------------------------------------------------------------


async def decoded_by(siege: Siege, program: str, reason: Reason, seconds: float = 30) -> None:
    """The device's decoder is another one: what a bug in the real one could come to."""
    bench = siege.box.reconciler._bench
    bench.deltas = DeltaRoom(
        store=siege.box.store,
        source=lambda: siege.box.source,
        memory_budget_bytes=512 * MIB,
        decoding=partial(
            Decoding, program=(sys.executable, "-c", program), deadline_seconds_min=seconds
        ),
    )
    await refused(siege, None, reason)


async def test_a_decoder_that_crashes(siege: Siege) -> None:
    await decoded_by(siege, "import ctypes; ctypes.string_at(0)", Reason.DECODER_CRASHED)


async def test_a_decoder_that_hangs(siege: Siege) -> None:
    await decoded_by(siege, "import time; time.sleep(60)", Reason.DECODER_TOO_SLOW, seconds=0.2)


async def test_a_decoder_that_makes_bytes_without_end(siege: Siege) -> None:
    endless = "import os\nwhile True: os.write(1, bytes(65536))"
    await decoded_by(siege, endless, Reason.OUTPUT_TOO_LONG)


async def test_a_decoder_in_the_hands_of_the_thief(siege: Siege) -> None:
    """It makes exactly as many bytes as were signed, and says that all is well."""
    await decoded_by(siege, f"import os; os.write(1, bytes({len(TARGET)}))", Reason.OUTPUT_DIFFERS)


async def test_what_failed_is_not_tried_again_after_a_power_cut(siege: Siege) -> None:
    delta = offer_patch(siege.fleet, BASE, TARGET, build_zstd_patch(BASE, heavy(6.0)).content)
    await attempt(siege, delta)
    siege.server.requests.clear()
    await siege.power_cut()
    await siege.box.until(lambda: whole(delta) in siege.server.requests)

    assert f"/v1/artifacts/sha256/{delta.patch}" not in siege.server.requests


async def test_a_newer_desired_state_may_name_a_better_patch(siege: Siege) -> None:
    await attempt(siege, offer_patch(siege.fleet, BASE, TARGET, b"no patch"))
    delta = offer_patch(siege.fleet, BASE, TARGET)
    siege.server.requests.clear()
    await fetch(siege)

    assert delivered(siege).made_bytes == len(TARGET)
    assert whole(delta) not in siege.server.requests
    await siege.assert_serves("1.1.0", 3.0)

"""Every story of a device on a real disk with too little room, then with enough.

The disk is a tmpfs that is made as small as what is on it and a little more: each time the story
stops at another of its steps. Nothing that was promised may be lost by then, and what serves serves
on; a restart on the full disk changes nothing, and with room the story ends well.
"""

from pathlib import Path

import pytest

from mailboat_agent.artifacts.disk_room import RESERVE_BYTES
from small_disk import run_on_small_disk

REPOSITORY = Path(__file__).parent.parent.parent
DISK_BYTES = 32 << 20
# A download leaves a reserve alone, what is small does not; the ballast is a mebibyte more.
LITTLE = (0, 8192, 24_576, 49_152, 90_112, 147_456)
ROOM_BYTES = (*LITTLE, *(RESERVE_BYTES + room for room in (0, 24_576, 122_880)))

# The ballast's room is enough for them, or they need none.
GO_THROUGH = ("rotated root and a withdrawn release", "garbage", "outbox")
# What a disk without ballast and room could not keep has to be heard again after a restart: that is
# `test_full_disk.test_a_withdrawal_counts_on_a_disk_without_a_byte_to_write`.
WITHDRAWAL = "rotated root and a withdrawn release"
WITHDRAWALS = (WITHDRAWAL, "predecessor withdrawn during a trial")

STORY = """
    import logging, shutil, subprocess, sys
    sys.path[:0] = [REPOSITORY, REPOSITORY + "/tests/support"]
    from tests.faults import device
    from tests.faults.acknowledged import Acknowledged
    from tests.faults.device import NotReached, live
    from tests.faults.scenes import scene

    chosen = scene(SCENE)

    def resize(size_bytes):
        command = ["mount", "-o", f"remount,size={size_bytes}", str(DISK)]
        subprocess.run(command, check=True)

    def clear():
        for path in DISK.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def used_bytes():
        status = os.statvfs(DISK)
        return (status.f_blocks - status.f_bfree) * status.f_frsize

    LOOKS = device.STEPS_MAX
    LOOKS_ON_A_FULL_DISK = LOOKS // 2  # one that has come to a stop looks again and again
    LOOKS_WITHOUT_MAX = 2  # to load what comes instead, at a start or after a withdrawal
    stopped = went_through = 0
    for room_bytes in ROOM_BYTES:
        clear()
        chosen.prepare(DISK)
        if not HAS_BALLAST:
            (DISK / "ballast").unlink()
        resize(used_bytes() + room_bytes)
        silent = []

        async def play(life):
            step = life.step

            looks_without = 0

            async def watched():
                nonlocal looks_without
                await step()
                looks_without = looks_without + 1 if life.serving is None else 0
                if looks_without > LOOKS_WITHOUT_MAX:
                    silent.append(f"nothing serves: {life.model}")

            life.step = watched
            await story(life)

        async def few_looks(life):
            for _ in range(6):
                await life.step()

        story = chosen.play
        device.STEPS_MAX = LOOKS_ON_A_FULL_DISK
        try:
            live(DISK, play)
        except NotReached:
            stopped += 1
        else:
            went_through += 1
        if SCENE not in WITHDRAWALS:
            story = few_looks  # once more from a start on the full disk
            live(DISK, play)
        device.STEPS_MAX = LOOKS
        resize(DISK_BYTES)
        wrong = silent[:1] + chosen.check(DISK, Acknowledged.of(DISK))
        assert not wrong, (SCENE, room_bytes, HAS_BALLAST, wrong)
    assert went_through > 0
    assert stopped > 0 or SCENE in GO_THROUGH
"""


@pytest.mark.slow
@pytest.mark.parametrize("has_ballast", [True, False], ids=["ballast", "no-ballast"])
@pytest.mark.parametrize(
    "scene",
    [
        "install of a whole release",
        "install from a delta",
        "install of imported files",
        "trial that fails",
        "soak that fails",
        "rotated root and a withdrawn release",
        "predecessor withdrawn during a trial",
        "garbage",
        "outbox",
    ],
)
def test_a_story_on_a_full_disk_stops_and_goes_on(
    tmp_path: Path, scene: str, has_ballast: bool
) -> None:
    if scene == WITHDRAWAL and not has_ballast:
        pytest.skip("what cannot be kept is forgotten at a restart, and heard again")
    program = STORY.replace("REPOSITORY", repr(str(REPOSITORY))).replace("SCENE", repr(scene))
    program = program.replace("HAS_BALLAST", repr(has_ballast))
    program = program.replace("ROOM_BYTES", repr(ROOM_BYTES))
    program = program.replace("WITHDRAWALS", repr(WITHDRAWALS))
    program = program.replace("GO_THROUGH", repr(GO_THROUGH if has_ballast else ("garbage",)))
    run_on_small_disk(tmp_path / "disk", DISK_BYTES, program.replace("DISK_BYTES", str(DISK_BYTES)))

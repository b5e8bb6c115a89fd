"""A breach on a disk that takes no more records: the bad release does not come back."""

from pathlib import Path

import pytest

from small_disk import run_on_small_disk

SUPPORT = Path(__file__).parent.parent / "support"
LOOKS_AFTER = 100  # far more than there are backoffs in them

STORY = """
    import asyncio, json, subprocess, sys, time
    sys.path.insert(0, SUPPORT)
    from agent_box import AgentBox
    from model_fleet import MODEL, ArtifactServer, Certificates, ModelFleet

    here = pathlib.Path(ELSEWHERE)
    certificates = Certificates(here / "pki")
    soak = {"seconds": 600, "counters": {"accuracy": {"good_rate_min": 0.9, "total_min": 10}}}

    def remount(how):
        mount = f"mount --bind {DISK} {DISK} && mount -o remount,{how},bind {DISK}"
        subprocess.run(["sh", "-c", mount], check=True)

    async def story():
        fleet = ModelFleet(here / "fleet")
        server = ArtifactServer(certificates, fleet.artifacts)
        box = AgentBox(DISK / "data", fleet, server, certificates)
        try:
            a, b = fleet.model_release("1.0.0"), fleet.model_release("1.1.0", factor=3.0, soak=soak)
            await box.install(fleet.current(a), "1.0.0")
            box.take(fleet.offered(b, a))
            await box.until(lambda: box.state.phase == "soak")
            feedback = box.runtime.live.feedback
            feedback.serves(MODEL, "1.1.0", b.digest, time.monotonic())
            remount("ro")
            counters = {"accuracy": {"good": 0, "total": 50}}
            bad = {"model": MODEL, "release": "1.1.0", "counters": counters}
            feedback.post(json.dumps(bad).encode(), time.monotonic())
            await box.until(lambda: box.serving == "1.0.0")
            for _ in range(LOOKS_AFTER):
                await box.step()
                await asyncio.sleep(0.02)
                assert box.serving == "1.0.0", "the release that was rolled back serves again"
            remount("rw")
            await box.until(lambda: "rolled_back 1.1.0" in box.told())
            assert box.committed("1.0.0") and b.digest in box.state.failed
        finally:
            await box.stop()
            server.close()

    asyncio.run(story())
"""


@pytest.mark.slow
def test_a_release_that_was_rolled_back_stays_away_though_nothing_can_be_recorded(
    tmp_path: Path,
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    program = STORY.replace("SUPPORT", repr(str(SUPPORT))).replace("LOOKS_AFTER", str(LOOKS_AFTER))
    run_on_small_disk(
        tmp_path / "disk", 24 << 20, program.replace("ELSEWHERE", repr(str(elsewhere)))
    )

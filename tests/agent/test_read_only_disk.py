"""The kernel makes a failing disk read-only: what is on it serves on, and starts again."""

from pathlib import Path

import pytest

from small_disk import run_on_small_disk

SUPPORT = Path(__file__).parent.parent / "support"

STORY = """
    import asyncio, subprocess, sys
    sys.path.insert(0, SUPPORT)
    from agent_box import AgentBox
    from mailboat_agent.atomic_file import LockedDirectory
    from mailboat_agent.status import StatusFiles
    from mailboat_schemas.errors import ConfigurationInvalid
    from model_fleet import ArtifactServer, Certificates, ModelFleet

    here = pathlib.Path(ELSEWHERE)
    certificates = Certificates(here / "pki")

    def make_read_only():
        mount = f"mount --bind {DISK} {DISK} && mount -o remount,ro,bind {DISK}"
        subprocess.run(["sh", "-c", mount], check=True)

    async def story():
        fleet = ModelFleet(here / "fleet")
        server = ArtifactServer(certificates, fleet.artifacts)
        box = AgentBox(DISK / "data", fleet, server, certificates)
        with LockedDirectory(box.directory):
            pass
        try:
            a, b = fleet.model_release("1.0.0"), fleet.model_release("1.1.0", factor=3.0)
            await box.install(fleet.current(a), "1.0.0")
            await box.install(fleet.current(b), "1.1.0")
            make_read_only()
            status = StatusFiles(box.directory)
            status.write_serving(url="", host="", port=1)
            status.clear()
            await box.restart()
            with LockedDirectory(box.directory):
                try:
                    LockedDirectory(box.directory).__enter__()
                except ConfigurationInvalid:
                    pass  # still one agent for each directory
                else:
                    raise AssertionError("locked twice")
                await box.until(lambda: box.serving == "1.1.0")
                fleet.withdraw("1.1.0")
                box.take(fleet.current(a))
                assert box.serving is None
                await box.until(lambda: box.serving == "1.0.0")
        finally:
            await box.stop()
            server.close()

    asyncio.run(story())
"""


@pytest.mark.slow
def test_a_disk_gone_read_only_serves_on_and_hears_of_withdrawals(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    program = STORY.replace("SUPPORT", repr(str(SUPPORT)))
    run_on_small_disk(
        tmp_path / "disk", 24 << 20, program.replace("ELSEWHERE", repr(str(elsewhere)))
    )

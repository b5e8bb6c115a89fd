"""The disk fills up at any moment of an install: it serves on, and goes on when there is room."""

from pathlib import Path

import pytest

from small_disk import run_on_small_disk

SUPPORT = Path(__file__).parent.parent / "support"

STORY = """
    import asyncio, sys
    sys.path.insert(0, SUPPORT)
    from agent_box import AgentBox
    from model_fleet import ArtifactServer, Certificates, ModelFleet

    here = pathlib.Path(ELSEWHERE)
    certificates = Certificates(here / "pki")

    def make_room():
        (DISK / "filler").unlink()

    async def story(number, moment, has_ballast):
        fleet = ModelFleet(here / f"fleet-{number}")
        server = ArtifactServer(certificates, fleet.artifacts)
        box = AgentBox(DISK / str(number), fleet, server, certificates)
        try:
            a, b = fleet.model_release("1.0.0"), fleet.model_release("1.1.0", factor=3.0)
            await box.install(fleet.current(a), "1.0.0")
            box.take(fleet.offered(b, a))
            for _ in range(moment):
                await box.step()
                await asyncio.sleep(0.03)
            if not has_ballast:
                (box.directory / "ballast").unlink(missing_ok=True)
            fill()
            for _ in range(8):
                await box.step()
                assert box.serving in ("1.0.0", "1.1.0"), (moment, box.told())
                await asyncio.sleep(0.03)
            await box.restart()  # without a byte to write
            before = box.state.serving.version
            await box.until(lambda: box.serving is not None)
            assert box.serving in (before, box.state.serving.version), (moment, box.state)
            make_room()
            await box.until(lambda: box.committed("1.1.0"))
            events = [each for each in box.told() if "1.1.0" in each and "refused" not in each]
            assert events == ["trial_started 1.1.0", "soak_started 1.1.0", "committed 1.1.0"], (
                moment, box.told())
        finally:
            await box.stop()
            server.close()

    for number, (moment, has_ballast) in enumerate(MOMENTS):
        asyncio.run(story(number, moment, has_ballast))
"""


def play(tmp_path: Path, moments: list[tuple[int, bool]]) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    program = STORY.replace("SUPPORT", repr(str(SUPPORT))).replace("MOMENTS", repr(moments))
    program = program.replace("ELSEWHERE", repr(str(elsewhere)))
    run_on_small_disk(tmp_path / "disk", 24 << 20, program)


@pytest.mark.slow
def test_a_disk_that_fills_up_before_an_install_costs_nothing(tmp_path: Path) -> None:
    play(tmp_path, [(0, False)])


@pytest.mark.slow
@pytest.mark.parametrize("has_ballast", [True, False])
def test_a_disk_that_fills_up_at_any_moment_costs_nothing(
    tmp_path: Path, has_ballast: bool
) -> None:
    play(tmp_path, [(moment, has_ballast) for moment in range(1, 8)])


WITHDRAWAL = """
    import asyncio, sys
    sys.path.insert(0, SUPPORT)
    from agent_box import AgentBox
    from model_fleet import ArtifactServer, Certificates, ModelFleet

    here = pathlib.Path(ELSEWHERE)
    certificates = Certificates(here / "pki")

    async def story():
        fleet = ModelFleet(here / "fleet")
        server = ArtifactServer(certificates, fleet.artifacts)
        box = AgentBox(DISK / "data", fleet, server, certificates)
        try:
            a, b = fleet.model_release("1.0.0"), fleet.model_release("1.1.0", factor=3.0)
            await box.install(fleet.current(a), "1.0.0")
            await box.install(fleet.current(b), "1.1.0")
            fleet.withdraw("1.1.0")
            if not HAS_BALLAST:
                (box.directory / "ballast").unlink()
            fill()
            box.take(fleet.current(a))
            assert box.serving is None
            await box.until(lambda: box.serving == "1.0.0")
            if HAS_BALLAST:  # then it was recorded as well
                await box.until(lambda: box.committed("1.0.0"))
                await box.restart()
                await box.until(lambda: box.serving == "1.0.0")
            assert box.manifest.expires is None or HAS_BALLAST, "nothing is installed on it"
            (DISK / "filler").unlink()
            await box.until(lambda: box.committed("1.0.0"))
            await box.restart()
            await box.until(lambda: box.serving == "1.0.0")
            assert "returned 1.1.0" in box.told(), box.events()
        finally:
            await box.stop()
            server.close()

    asyncio.run(story())
"""


@pytest.mark.slow
@pytest.mark.parametrize("has_ballast", [True, False])
def test_a_withdrawal_counts_on_a_disk_without_a_byte_to_write(
    tmp_path: Path, has_ballast: bool
) -> None:
    """Kept on the ballast's room; without that it is heard, and heard again after a restart."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    program = WITHDRAWAL.replace("SUPPORT", repr(str(SUPPORT)))
    program = program.replace("HAS_BALLAST", repr(has_ballast))
    run_on_small_disk(
        tmp_path / "disk", 24 << 20, program.replace("ELSEWHERE", repr(str(elsewhere)))
    )

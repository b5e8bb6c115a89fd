"""One cap over all downloads of a device."""

import asyncio
import time
from pathlib import Path

import pytest

from mailboat_agent.artifacts.download import HttpsSource
from mailboat_agent.artifacts.pace import Pace
from rogue_server import CONTENT, DIGEST, Server, certificates_in, honest

CAP = 200_000


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(*certificates_in(tmp_path))


def fetch(server: Server, directory: Path, downloads: int, **limits: float) -> float:
    """Seconds that so many downloads of `CONTENT` take side by side under `CAP`."""
    pace = Pace(CAP)

    async def run() -> None:
        async with server.source(honest) as address:
            url = str(address._client.base_url)
            sources = [
                HttpsSource(url, server.trusted, pace=pace, **limits)  # type: ignore[arg-type]
                for _ in range(downloads)
            ]
            await asyncio.gather(
                *(
                    each.fetch_artifact(DIGEST, len(CONTENT), directory / f"{n}.part")
                    for n, each in enumerate(sources)
                )
            )
            for each in sources:
                await each.close()

    began = time.monotonic()
    asyncio.run(run())
    return time.monotonic() - began


@pytest.mark.slow
def test_two_downloads_share_the_cap_and_both_arrive(server: Server, tmp_path: Path) -> None:
    seconds = fetch(server, tmp_path, 2)
    assert 2 * len(CONTENT) / CAP - 0.5 <= seconds < 2 * len(CONTENT) / CAP + 20
    assert (tmp_path / "1.part").read_bytes() == CONTENT


def test_waiting_for_the_cap_is_not_held_against_the_server(server: Server, tmp_path: Path) -> None:
    """Its minimum rate is five times the cap, and it would be cut long before the end."""
    impatient = {"rate_min_bytes_per_second": 5 * CAP, "rate_window_seconds": 0.3}
    seconds = fetch(server, tmp_path, 1, deadline_seconds_min=0.5, **impatient)
    assert seconds > 0.5


def test_without_a_cap_nothing_waits() -> None:
    async def run() -> float:
        return await Pace().take(1 << 40)

    assert asyncio.run(run()) == 0.0


def test_an_idle_link_saves_up_no_more_than_a_short_burst() -> None:
    async def run() -> float:
        pace = Pace(CAP)
        await pace.take(1)
        await asyncio.sleep(0.3)
        return await pace.take(CAP)

    assert 0.7 <= asyncio.run(run()) <= 1.0

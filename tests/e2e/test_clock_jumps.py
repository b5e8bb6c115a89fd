"""The real agent process under a wall clock that jumps (libfaketime): it serves, and recovers."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_process import AgentProcess, broker_that_retains, until
from model_fleet import ArtifactServer, Certificates, ModelFleet

MOSQUITTO = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
LIBRARIES = ("/usr/lib/x86_64-linux-gnu/faketime", "/usr/lib/aarch64-linux-gnu/faketime")
LIBRARY = next((path for path in map(Path, LIBRARIES) if path.is_dir()), None)
DAY_SECONDS = 86_400
JUMPS = {
    "to 1970": -20_000 * DAY_SECONDS,
    "to 2099": 26_500 * DAY_SECONDS,
    "back by a day": -DAY_SECONDS,
    "forward by a month": 31 * DAY_SECONDS,
}
LOOKS_SECONDS = 2.0  # a few looks at everything

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(LIBRARY is None, reason="libfaketime is not installed"),
    pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed"),
]


class Clock:
    """How far the agent's wall clock is off; its monotonic clock is right."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "clock"
        self.jump(0)

    def jump(self, seconds: int) -> None:
        new = self._path.with_suffix(".new")
        new.write_text(f"{seconds:+d}\n")
        new.replace(self._path)

    @property
    def prefix(self) -> tuple[str, ...]:
        return (
            "env",
            f"LD_PRELOAD={LIBRARY}/libfaketimeMT.so.1",
            f"FAKETIME_TIMESTAMP_FILE={self._path}",
            "FAKETIME_NO_CACHE=1",
            "FAKETIME_DONT_FAKE_MONOTONIC=1",
            "DONT_FAKE_MONOTONIC=1",  # as older versions call it
        )


class Site:
    def __init__(self, directory: Path) -> None:
        certificates = Certificates(directory / "pki")
        self.fleet = ModelFleet(directory / "ceremony")
        self.server = ArtifactServer(certificates, self.fleet.artifacts)
        self.clock = Clock(directory)
        place = directory / "device"
        place.mkdir()
        self.agent = AgentProcess(
            place,
            certificates,
            self.fleet.factory_root,
            self.server.url,
            prefix=self.clock.prefix,
            settings={"manifest_poll_seconds": 0.3, "start_jitter_seconds": 0},
        )

    def serves(self, version: str) -> bool:
        models = self.agent.report().get("models", [])
        return [(each["serving_version"], each["phase"]) for each in models] == [
            (version, "committed")
        ]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.agent.kill()
    site.server.close()


def test_a_clock_that_jumps_while_it_runs_and_before_it_starts(site: Site, tmp_path: Path) -> None:
    first = site.fleet.model_release("1.0.0")
    bundle = site.server.manifest = site.fleet.current(first)
    with broker_that_retains(tmp_path / "broker", site.agent.certificates, bundle) as port:
        site.agent.start(port)
        until(lambda: site.serves("1.0.0"))
        answer = site.agent.infer([1, 2, 3, 4])
        process = site.agent.process
        assert process is not None

        for seconds in JUMPS.values():
            for offset in (seconds, 0):
                site.clock.jump(offset)
                ends = time.monotonic() + LOOKS_SECONDS
                while time.monotonic() < ends:
                    assert site.agent.infer([1, 2, 3, 4]) == answer
                    time.sleep(0.2)
                assert process.poll() is None, site.agent.log()
                until(lambda: site.serves("1.0.0"))

        # Nothing is installed by a clock of 1970; and not one second late once it is right.
        site.clock.jump(JUMPS["to 1970"])
        time.sleep(LOOKS_SECONDS)
        site.server.manifest = site.fleet.offered(
            site.fleet.model_release("1.1.0", factor=3.0), first
        )
        time.sleep(LOOKS_SECONDS)
        assert site.serves("1.0.0")
        site.clock.jump(0)
        until(lambda: site.serves("1.1.0"))

        for seconds in JUMPS.values():
            site.agent.kill()
            site.clock.jump(seconds)
            site.agent.start(port)
            until(lambda: site.serves("1.1.0"))
        site.clock.jump(0)
        until(lambda: not site.agent.report()["notes"])
        site.agent.kill()
    kinds = {str(event.kind) for event in site.agent.events()}
    assert not kinds & {"rolled_back", "trial_failed", "returned", "security", "storage_damaged"}
    assert "clock_untrusted" in kinds
    assert "Traceback" not in site.agent.log()

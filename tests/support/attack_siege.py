"""A device that serves, under attack: everything real, and what must hold after each attempt.

One device is installed once for each test process; every siege begins from a copy of its directory,
so that an attack costs the start of one worker instead of a ceremony and an install.
"""

import asyncio
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from agent_box import AgentBox
from mailboat_agent.serving.json_tensors import tensor_of_json
from mailboat_schemas.desired import ReleaseRef
from mailboat_schemas.events import Event, EventKind
from model_fleet import MODEL, ArtifactServer, Certificates, ModelFleet

SERVED, FACTOR = "1.0.0", 2.0
LOOKS = 4  # of the loop at what was offered; the first takes it, the others act on it
# The kinds an operator is told of when somebody tries something.
ALARMS = frozenset(
    {
        EventKind.MANIFEST_REFUSED,
        EventKind.RELEASE_REFUSED,
        EventKind.TRIAL_FAILED,
        EventKind.TRUST_STALE,
        EventKind.CLOCK_UNTRUSTED,
        EventKind.STORAGE_DAMAGED,
        EventKind.SECURITY,
    }
)


class Stronghold:
    """The fleet and the installed device that every siege starts from; not changed by any."""

    def __init__(self, directory: Path) -> None:
        self.certificates = Certificates(directory / "pki")
        self.fleet = ModelFleet(directory / "ceremony")
        self.current = self.fleet.model_release(SERVED, factor=FACTOR)
        self.bundle = self.fleet.current(self.current)
        self.data = directory / "data"
        asyncio.run(self._install())

    async def _install(self) -> None:
        with served(self.certificates, self.fleet) as server:
            box = AgentBox(self.data, self.fleet, server, self.certificates)
            try:
                await box.install(self.bundle, SERVED)
            finally:
                await box.stop()

    def besiege(self, directory: Path) -> "Siege":
        shutil.copytree(self.data, directory / "data")
        return Siege(directory, self.fleet.copied(), self.certificates, self.current, self.bundle)


@contextmanager
def served(certificates: Certificates, fleet: ModelFleet) -> Iterator[ArtifactServer]:
    server = ArtifactServer(certificates, fleet.artifacts)
    try:
        yield server
    finally:
        server.close()


class Siege:
    """``fleet`` is who may; a test lets its attacker use no more of it than the attacker holds."""

    box: AgentBox
    server: ArtifactServer

    def __init__(
        self,
        directory: Path,
        fleet: ModelFleet,
        certificates: Certificates,
        current: ReleaseRef,
        bundle: bytes,
    ) -> None:
        self.directory = directory
        self.fleet = fleet
        self.certificates = certificates
        self.current = current
        self.bundle = bundle  # the one the device has taken
        self.artifacts_at_first = tuple(fleet.artifacts)

    async def __aenter__(self) -> Self:
        self._server = served(self.certificates, self.fleet)
        self.server = self._server.__enter__()
        self.box = AgentBox(self.directory / "data", self.fleet, self.server, self.certificates)
        await self.until_served()
        self.remember()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.box.stop()
        self._server.__exit__(None, None, None)

    async def until_served(self, version: str = SERVED) -> None:
        await self.box.until(lambda: self.box.committed(version))

    def remember(self) -> None:
        """What must be the same afterwards."""
        self._events = len(self.box.events())
        self._trust = self.box.trust.view().versions()
        self._held = self.box.trust.held()
        self._counter = self.box.ledger.state.manifest_counter

    # --- attack ----------------------------------------------------------------------------------

    async def offer(self, bundle: bytes) -> None:
        """Put a message on the manifest topic, and let the loop look at it."""
        self.box.take(bundle)
        await self.looks()

    async def looks(self, times: int = LOOKS) -> None:
        for _ in range(times):
            await self.box.step()
            await asyncio.sleep(0)

    async def advance(self, bundle: bytes) -> None:
        """A legitimate change that an attack builds on."""
        assert self.box.take(bundle), self.alarms()
        await self.looks()
        self.remember()

    async def power_cut(self) -> None:
        """The process is gone without a word, and comes back on what is on the disk.

        A copy of the directory, taken while it runs, is all that the new process gets.
        """
        data = self.box.directory
        shutil.copytree(data, self.directory / "survived")
        await self.box.stop()
        shutil.rmtree(data)
        (self.directory / "survived").rename(data)
        self.box.start()
        await self.until_served()

    # --- afterwards ------------------------------------------------------------------------------

    def alarms(self) -> list[Event]:
        return [event for event in self.box.events()[self._events :] if event.kind in ALARMS]

    async def assert_refused(self, code: str, *, trust_moves: bool = False) -> None:
        """Told in the outbox under this code; serving, trust and counter as before.

        ``trust_moves``: new metadata came with it and stands on its own signatures; it may have
        been accepted, and gone forward.
        """
        assert code in [event.code for event in self.alarms()], self.box.events()[self._events :]
        self.assert_trust_stands(moves=trust_moves)
        await self.assert_serves()

    def assert_trust_stands(self, *, moves: bool = False) -> None:
        state = self.box.ledger.state
        versions = self.box.trust.view().versions()
        if moves:
            assert all(versions[role] >= version for role, version in self._trust.items())
            assert state.manifest_counter >= self._counter
        else:
            assert versions == self._trust
            assert self.box.trust.held() == self._held
            assert state.manifest_counter == self._counter

    async def assert_serves(self, version: str = SERVED, factor: float = FACTOR) -> None:
        """Ask the device for an answer, and look at whose it is."""
        assert self.box.committed(version), (self.box.state, self.box.told())
        assert await self.answer([0, 1, 2, 3]) == [factor * x + 1 for x in range(4)]

    async def answer(self, values: list[float]) -> list[float]:
        x = tensor_of_json({"name": "x", "datatype": "FP32", "shape": [1, 4], "data": values})
        deadline = asyncio.get_running_loop().time() + 60
        future = self.box.runtime.submit(
            MODEL, None, [x], [], deadline=deadline, encode=lambda _release, inference: inference
        )
        inference: Any = await asyncio.wrap_future(future)
        return [float(value) for value in inference.outputs[0].values()]

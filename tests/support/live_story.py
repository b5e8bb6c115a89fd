"""A story of a release on live traffic: one device with all its parts, asked as callers ask."""

import asyncio
import json
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from agent_box import AgentBox
from mailboat_agent.errand import Kind
from mailboat_agent.serving.json_tensors import tensor_of_json
from mailboat_schemas.desired import ReleaseRef
from mailboat_schemas.events import Event
from model_fleet import MODEL, ArtifactServer, Certificates, ModelFleet

PATIENCE_SECONDS = 60


class LiveDevice(AgentBox):
    """With requests and feedback, as an application sends them."""

    def ask(self, *values: float) -> list[float]:
        """One live request, and what its caller gets."""
        row = list(values) or [0.0, 1.0, 2.0, 3.0]
        x = tensor_of_json({"name": "x", "datatype": "FP32", "shape": [1, 4], "data": row})
        future = self.runtime.submit(
            MODEL,
            None,
            [x],
            [],
            deadline=time.monotonic() + 60,
            encode=lambda _release, inference: list(inference.outputs[0].values()),
        )
        return future.result(60)

    def post(self, **content: Any) -> dict[str, Any]:
        body = json.dumps({"model": MODEL, **content}).encode()
        return self.runtime.live.feedback.post(body, time.monotonic())

    async def under_load(self, condition: Callable[[], bool]) -> list[list[float]]:
        """Turn the loop and ask what serves, until it is so; returns every answer."""
        answers: list[list[float]] = []

        async def ask() -> None:
            answers.append(await asyncio.to_thread(self.ask))

        await self.turn(lambda: condition() and not self.reconciler.busy, ask)
        return answers

    @property
    def is_shadowing(self) -> bool:
        loop = self.reconciler.loops.get(MODEL)
        return loop is not None and loop.work is not None and loop.work.kind is Kind.SHADOW

    async def until_it_shadows(self) -> None:
        """Its candidate is loaded, and waits for live requests."""
        await self.turn(
            lambda: (
                self.is_shadowing and self.reconciler.loops[MODEL].because.startswith("shadowing")
            )
        )

    async def turn(
        self,
        condition: Callable[[], bool],
        meanwhile: Callable[[], Coroutine[None, None, None]] | None = None,
    ) -> None:
        """Turn the loop, and do something else besides, until it is so."""
        give_up = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert time.monotonic() < give_up, f"{self.told()} {self.state}"
            await self.step()
            if meanwhile is not None:
                await meanwhile()
            await asyncio.sleep(0.005)

    def last(self, kind: str) -> Event:
        return [event for event in self.events() if event.kind == kind][-1]


Story = Callable[[LiveDevice], Coroutine[None, None, None]]


class Stage:
    """Where stories are told: one fleet, its server, and for each story a fresh device.

    ``before`` is release 1.0.0, ``candidate`` 1.1.0, once there is one.
    """

    def __init__(self, directory: Path, certificates: Certificates) -> None:
        self._directory = directory
        self._certificates = certificates
        self.fleet = ModelFleet(directory / "ceremony")
        self._server = ArtifactServer(certificates, self.fleet.artifacts)
        self.before: ReleaseRef
        self.candidate: ReleaseRef

    def tell(self, story: Story) -> None:
        """Nothing of the device is left behind."""

        async def told() -> None:
            data = self._directory / "data"
            device = LiveDevice(data, self.fleet, self._server, self._certificates)
            try:
                await story(device)
            finally:
                await device.stop()

        asyncio.run(told())

    def tell_of_candidate(
        self, story: Story, *, before: dict[str, Any] | None = None, **candidate: Any
    ) -> None:
        """1.0.0 is committed and serves y = 2 x + 1, and 1.1.0 is offered; then the story."""
        self.before = self.fleet.model_release("1.0.0", **(before or {}))
        self.candidate = self.fleet.model_release("1.1.0", **candidate)

        async def told(device: LiveDevice) -> None:
            await device.install(self.fleet.current(self.before), "1.0.0")
            device.take(self.fleet.offered(self.candidate, self.before))
            await story(device)

        self.tell(told)

    def close(self) -> None:
        self._server.close()

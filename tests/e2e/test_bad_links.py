"""A link that is cut every few seconds: everybody converges, and hardly a byte is sent twice."""

import asyncio
import random
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest

from agent_box import AgentBox
from cutting_proxy import BadLink
from mailboat_agent.artifacts.download import HttpsSource
from mailboat_agent.artifacts.mirrored_source import MirroredSource
from mailboat_agent.identity.device_key import tls_context
from mailboat_schemas.deltas import delivery_of
from mailboat_schemas.reports import ModelPhase
from model_fleet import ModelFleet, affine
from patched_fleet import offer_patch, sha256
from running_api import RunningApi, running_api

AGENTS = 20
PATIENCE_SECONDS = 480
CHANGED_BYTES, UNCHANGED_BYTES = 1_000_000, 3_000_000
SENT_PER_CHOSEN_MAX = 1.1


def model(factor: float) -> bytes:
    """``affine`` with a large part that stays and one that does not; neither compresses to less
    than half."""
    content = onnx.load_model_from_string(affine(factor))
    for name, seed, size_bytes in (
        ("stays", 1, UNCHANGED_BYTES),
        ("changes", int(factor), CHANGED_BYTES),
    ):
        entry = content.metadata_props.add()
        entry.key, entry.value = name, random.Random(seed).randbytes(size_bytes // 2).hex()
    encoded: bytes = content.SerializeToString()
    return encoded


class Agent(AgentBox):
    """One device: its own directory, certificate and connection; no process of its own."""

    def __init__(
        self, directory: Path, fleet: ModelFleet, api: RunningApi, name: str, port: int
    ) -> None:
        assert api.enrol(name).status == 201
        tls = tls_context(api.authority.ca_path, *api.identities[name])
        self.https = HttpsSource(f"https://127.0.0.1:{port}", tls)
        server = SimpleNamespace(url=api.url, device_key=None)
        super().__init__(directory, fleet, server, SimpleNamespace(ca_path=api.authority.ca_path))  # type: ignore[arg-type]
        self.direct = self.source
        self.source = MirroredSource(  # type: ignore[assignment]
            controller=lambda: self.https,
            caches=tuple,
            cache_names=(),
            object_store=None,
            rng=random.Random(name),
        )

    async def until_on_trial(self) -> None:
        """Everything is here, verified and recorded. The trial itself is not begun."""
        while self.state.phase is not ModelPhase.TRIAL:
            await self.step()
            await asyncio.sleep(0.05)

    async def stop(self) -> None:
        self.source = self.direct
        await self.https.close()
        await super().stop()


@pytest.mark.slow
def test_twenty_agents_converge_over_a_link_that_is_cut(tmp_path: Path) -> None:
    """Half of them hold the release before and take a patch, half take everything."""
    fleet = ModelFleet(tmp_path / "ceremony")
    base, target = model(1.0), model(2.0)
    first = fleet.model_release("1.0.0", model=base, factor=1.0)
    golden = next(c for c in fleet.artifacts.values() if c != base)
    second = fleet.model_release("1.1.0", model=target, factor=2.0)
    delta = offer_patch(fleet, base, target)
    small = [c for digest, c in fleet.artifacts.items() if len(c) < 100_000 and c != golden]
    bundle = fleet.offered(second, first)
    whole = len(target) + sum(map(len, small))
    patched = delta.patch_length + sum(map(len, small))
    chosen = AGENTS // 2 * (whole + patched)

    async def story(api: RunningApi) -> tuple[BadLink, list[Agent]]:
        link = BadLink(
            api.port,
            random.Random(4),
            cut_seconds=(1.0, 5.0),
            resets_of_100=5,
            bytes_per_second=400_000,
        )
        async with link.open():
            agents = [
                await asyncio.to_thread(
                    Agent, tmp_path / f"agent-{n}", fleet, api, f"agent-{n}", link.port
                )
                for n in range(AGENTS)
            ]
            for agent in agents[: AGENTS // 2]:
                for content in (base, golden):
                    agent.store.put(content)
            for agent in agents:
                assert agent.take(bundle)
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await asyncio.gather(*(agent.until_on_trial() for agent in agents))
                for agent in agents:
                    await asyncio.to_thread(_check, agent, target)
                return link, agents
            finally:
                for agent in agents:
                    await agent.stop()

    began = datetime.now(UTC)
    with running_api(tmp_path / "controller") as api:
        for digest, content in fleet.artifacts.items():
            path = f"/v1/artifacts/sha256/{digest}"
            assert api.ask("PUT", path, by="build", body=content).status == 201
        link, _ = asyncio.run(story(api))
    seconds = (datetime.now(UTC) - began).total_seconds()
    ratio = link.down_bytes / chosen
    print(  # noqa: T201 - the figure that this is about
        f"\n{AGENTS} agents, {link.connections} connections, {link.cuts} cut, {link.resets} reset: "
        f"{link.down_bytes:,} bytes sent for {chosen:,} chosen, ratio {ratio:.3f}, {seconds:.0f} s"
    )
    assert link.cuts > AGENTS
    assert link.resets > 0
    assert ratio <= SENT_PER_CHOSEN_MAX


def _check(agent: Agent, target: bytes) -> None:
    assert agent.store.path(sha256(target)).read_bytes() == target
    started = next(each for each in agent.events() if each.kind == "trial_started")
    delivery = delivery_of(started.evidence)
    assert delivery is not None
    held_base = "agent-" in agent.directory.name and int(agent.directory.name[6:]) < AGENTS // 2
    assert delivery.outcome == ("delta" if held_base else "full")

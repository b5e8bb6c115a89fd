"""Harness B on the real thing: `mailboat-agent run` as a process, with its broker and its artifacts
over TLS and its worker on a real model, killed by strace in the middle of an install.

A point costs seconds, so there are a few, chosen with a seed among all calls with which a whole
install changes the data directory. A point is a path and the number of a call on it: strace counts
for each thread of its own, and what is written to one path comes from one thread.
"""

import random
import re
import shutil
import tempfile
import time
import urllib.error
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Self

from tests.faults.strace_kills import CALLS, SEED, Fault, StraceTally, place_of
from tests.faults.traced_log import Call, read_calls

from agent_process import PATIENCE_SECONDS, AgentProcess, broker_that_retains, until
from attack_siege import FACTOR, Stronghold, served
from mailboat_agent.trust.trust_store import TrustStore
from model_fleet import MODEL

NEXT, NEXT_FACTOR = "2.0.0", 3.0
SCENE = "the real agent, over the network"
INPUT = [0.0, 1.0, 2.0, 3.0]
# Paths that are there in every run: no random names, and what only says how it goes is left out.
_STEADY = re.compile(r"(state|journal|store|staging|manifests|trust/(highest|\d|new))")
_NEEDS_SPACE = ("write", "pwrite64", "openat")


@dataclass(frozen=True, slots=True)
class AgentPoint:
    """The ``number``-th such call on a path below the data directory."""

    path: str
    call: str
    number: int
    fault: Fault

    def __str__(self) -> str:
        return f"{SCENE}: {self.fault} at {self.call} no. {self.number} of {self.path}"


class AgentUnderStrace:
    """A fleet that has moved on to the next release, and devices that have not heard of it yet."""

    def __init__(self, directory: Path, stronghold: Stronghold, api_url: str, port: int) -> None:
        self._directory = directory
        self._stronghold = stronghold
        self._api_url = api_url
        self._port = port
        self._runs = 0

    @classmethod
    @contextmanager
    def ready(cls) -> Iterator[Self]:
        """Everything around the device is up: broker, artifact server, certificates."""
        with ExitStack() as stack:
            directory = Path(tempfile.mkdtemp(prefix="mailboat-agent-"))
            stack.callback(shutil.rmtree, directory, ignore_errors=True)
            stronghold = Stronghold(directory / "stronghold")
            fleet = stronghold.fleet
            release = fleet.model_release(NEXT, factor=NEXT_FACTOR)
            server = stack.enter_context(served(stronghold.certificates, fleet))
            bundle = fleet.current(release)
            certificates = stronghold.certificates
            broker = broker_that_retains(directory / "broker", certificates, bundle)
            yield cls(directory, stronghold, server.url, stack.enter_context(broker))

    def points(self, points_max: int, seed: int = SEED) -> list[AgentPoint]:
        """So many of all calls of a run without faults; every fourth with an error."""
        with self._agent() as agent:
            log = agent.directory / "log"
            agent.prefix = _strace(log, CALLS)
            agent.start(self._port)
            until(lambda: _stands(agent))
            agent.kill()
            with log.open() as lines:
                calls = [each for each in read_calls(lines) if isinstance(each, Call)]
            found = [(place_of(call, agent.data), call.name) for call in calls]
        points, seen = [], Counter[tuple[str, str]]()
        for path, name in found:
            if path is None or not _STEADY.match(path):
                continue
            seen[path, name] += 1
            points.append(AgentPoint(path, name, seen[path, name], Fault.KILL))
        chosen = random.Random(seed).sample(points, min(points_max, len(points)))
        return [
            point if index % 4 else AgentPoint(point.path, point.call, point.number, _error(point))
            for index, point in enumerate(chosen, start=1)
        ]

    def run(self, points: Sequence[AgentPoint]) -> StraceTally:
        began = time.monotonic()
        tally = StraceTally()
        for point in points:
            met, found = self._at(point)
            if not met:
                tally.missed += 1
                continue
            tally.points[str(point.fault)] += 1
            tally.scenes[SCENE] += 1
            tally.calls[point.call] += 1
            tally.violations += [f"{point}: {each}" for each in found]
        tally.seconds = time.monotonic() - began
        return tally

    def _at(self, point: AgentPoint) -> tuple[bool, list[str]]:
        """Whether the point was met, and what was wrong afterwards."""
        with self._agent() as agent:
            log = agent.directory / "log"
            inject = f"inject={point.call}:{point.fault}:when={point.number}"
            path = str(agent.data / point.path)
            agent.prefix = (*_strace(log, point.call), "-e", inject, "-P", path)
            agent.start(self._port)
            assert agent.process is not None
            process = agent.process
            until(lambda: process.poll() is not None or _stands(agent))
            agent.kill()
            said = log.read_text()
            met = "killed by SIGKILL" in said if point.fault is Fault.KILL else "INJECTED" in said
            return met, list(self._wrong(agent)) if met else []

    def _wrong(self, agent: AgentProcess) -> Iterator[str]:
        """Start it again, without strace: it serves at once and comes to the end of its install."""
        before = TrustStore(self._stronghold.data, self._stronghold.fleet.factory_root)
        versions = before.view().versions()
        agent.prefix = ()
        agent.start(self._port)
        try:
            answer = _first_answer(agent)
            if answer not in (_expected(FACTOR), _expected(NEXT_FACTOR)):
                yield f"1: it answered {answer} after the start"
            until(lambda: _stands(agent))
            if _first_answer(agent) != _expected(NEXT_FACTOR):
                yield f"4: {NEXT} is committed and another model answers"
        except (AssertionError, OSError) as error:
            said = f"{agent.report()}; {agent.log()[-500:]}"
            yield f"4: not within {PATIENCE_SECONDS} s: {error!r}; {said}"
        finally:
            agent.kill()
        now = TrustStore(agent.data, self._stronghold.fleet.factory_root).view().versions()
        if any(now.get(role, 0) < version for role, version in versions.items()):
            yield f"7: trust versions went from {versions} to {now}"
        told = [event.kind for event in agent.events() if event.version == NEXT]
        for kind in ("trial_started", "committed"):
            if told.count(kind) != 1:
                yield f"3: {kind} {NEXT} was told {told.count(kind)} times: {told}"

    @contextmanager
    def _agent(self) -> Iterator[AgentProcess]:
        self._runs += 1
        directory = self._directory / f"device-{self._runs}"
        directory.mkdir()
        shutil.copytree(self._stronghold.data, directory / "data")
        stronghold = self._stronghold
        root = stronghold.fleet.factory_root
        agent = AgentProcess(directory, stronghold.certificates, root, self._api_url)
        try:
            yield agent
        finally:
            agent.kill()
            shutil.rmtree(directory, ignore_errors=True)


def _strace(log: Path, calls: str) -> tuple[str, ...]:
    """strace steps aside (-D): the process that was started is the agent itself."""
    options = ("-D", "-f", "-y", "-xx", "-s", "4096", "-o", str(log))
    return ("strace", *options, "-e", f"trace={calls}")


def _stands(agent: AgentProcess) -> bool:
    """Whether it says that the next release is committed and serves."""
    return any(
        model["model"] == MODEL
        and model["serving_version"] == NEXT
        and model["phase"] == "committed"
        for model in agent.report().get("models", [])
    )


def _first_answer(agent: AgentProcess) -> list[float]:
    """Asked until its worker has loaded the model; 503 until then."""

    def answered() -> list[float]:
        try:
            answer: list[float] = agent.infer(INPUT)
        except urllib.error.HTTPError as error:
            if error.code != HTTPStatus.SERVICE_UNAVAILABLE:
                raise
            return []
        return answer

    found: list[float] = until(answered)
    return found


def _expected(factor: float) -> list[float]:
    return [factor * value + 1 for value in INPUT]


def _error(point: AgentPoint) -> Fault:
    return Fault.ENOSPC if point.call in _NEEDS_SPACE else Fault.EIO


__all__ = ["AgentPoint", "AgentUnderStrace"]

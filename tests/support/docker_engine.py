"""A Docker engine, where there is one: what it has, and docker-compose.yml under a name of its own.

Nothing is pulled for a test. ``stand_in_images/make`` makes the public images on a machine that has
Debian's packages alone; a machine that builds in special ways says so in its own COMPOSE_FILE.
"""

import functools
import json
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
DOCKERFILE = REPOSITORY / "Dockerfile"
BASE_IMAGE = DOCKERFILE.read_text().partition("\nFROM ")[2].split()[0]
STACK: Mapping[str, Any] = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())
SERVICES: Mapping[str, dict[str, Any]] = STACK["services"]
# The default profile, without what ends by itself.
GREEN = tuple(
    name
    for name, service in SERVICES.items()
    if "profiles" not in service and service["restart"] != "no"
)

USER = "10001"  # of our own images

BUILD_SECONDS_MAX = 1800  # two cores and a slow mirror; two minutes where both are good
UP_SECONDS_MAX = 600
DOWN_SECONDS_MAX = 180
COMMAND_SECONDS_MAX = 120
CONVERGE_SECONDS_MAX = 240
POLL_SECONDS = 1.0


def answers(*command: str) -> bool:
    if shutil.which(command[0]) is None:
        return False
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, timeout=COMMAND_SECONDS_MAX
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


@functools.cache
def compose_program() -> tuple[str, ...] | None:
    """Compose, whether or not an engine answers."""
    for command in (("docker", "compose"), ("docker-compose",)):
        if answers(*command, "version"):
            return command
    return None


def need_engine(*images: str) -> None:
    """
    Raises:
        pytest.skip.Exception: no engine answers, or one of the images is not on this machine.
    """
    if not answers("docker", "info"):
        pytest.skip("no Docker engine answers")
    missing = [image for image in images if not answers("docker", "image", "inspect", image)]
    if missing:
        pytest.skip(
            f"{', '.join(missing)}: not on this machine, and a test pulls nothing; "
            "tests/support/stand_in_images/make makes them"
        )


def public_images() -> tuple[str, ...]:
    """What the default profile takes from others."""
    found = {SERVICES[name]["image"] for name in GREEN if "build" not in SERVICES[name]}
    return (BASE_IMAGE, *sorted(found))


class Stack:
    """docker-compose.yml under a name of its own."""

    def __init__(self) -> None:
        """
        Raises:
            pytest.skip.Exception: it cannot run here, and why.
        """
        need_engine(*public_images())
        program = compose_program()
        if program is None:
            pytest.skip("there is no Docker Compose")
        self.name = f"mailboat-test-{uuid.uuid4().hex[:8]}"
        self._command = (*program, "--project-name", self.name)

    def compose(self, *words: str, seconds_max: float = COMMAND_SECONDS_MAX) -> str:
        return _output((*self._command, *words), seconds_max)

    def up(self) -> float:
        """The seconds until every service is green."""
        began = time.monotonic()
        self.compose("up", "--detach", seconds_max=UP_SECONDS_MAX)
        self.until("everything is green", self.is_green)
        return time.monotonic() - began

    def down(self, *more: str) -> None:
        self.compose("down", "--timeout", "20", *more, seconds_max=DOWN_SECONDS_MAX)

    def run(self, service: str, *words: str) -> str:
        return _output(("docker", "exec", self.container(service), *words))

    def ask(self, *words: str) -> Any:
        """What a ``mailboat`` command of the operator answers."""
        return json.loads(self.run("controller", "mailboat", *words, "--json"))

    def container(self, service: str) -> str:
        """Asked of the engine: Compose takes seconds to start on a busy machine."""
        labels = {"project": self.name, "service": service, "oneoff": "False"}
        filters = [
            word
            for label, value in labels.items()
            for word in ("--filter", f"label=com.docker.compose.{label}={value}")
        ]
        (found,) = _output(("docker", "ps", "--all", "--quiet", "--no-trunc", *filters)).split()
        return found

    def state(self, service: str) -> dict[str, Any]:
        told = _output(
            ("docker", "inspect", "--format", "{{json .State}}", self.container(service))
        )
        state: dict[str, Any] = json.loads(told)
        return state

    def health(self, service: str) -> str:
        found: str = self.state(service).get("Health", {}).get("Status", "")
        return found

    def is_green(self) -> bool:
        return all(self.health(name) == "healthy" for name in GREEN)

    def power_cut(self) -> None:
        """All at once, without a word; and back in the order that suits them least."""
        found = {name: self.container(name) for name in GREEN}
        _output(("docker", "kill", *found.values()))
        _output(("docker", "start", *(found[name] for name in reversed(GREEN))))

    def leftovers(self) -> str:
        """What the engine still has of this stack, images aside."""
        ours = ("--filter", f"label=com.docker.compose.project={self.name}", "--quiet")
        listed = (("ps", "--all"), ("volume", "ls"), ("network", "ls"))
        return "".join(_output(("docker", *words, *ours)) for words in listed)

    def cut(self, *services: str, network: str = "wan") -> None:
        """Take containers off a network, as if a cable were pulled."""
        for name in services:
            _output(
                ("docker", "network", "disconnect", self._network(network), self.container(name))
            )

    def mend(self, *services: str, network: str = "wan") -> None:
        for name in services:
            # By its name there: the others look for it by that.
            place = (self._network(network), self.container(name))
            _output(("docker", "network", "connect", "--alias", name, *place))

    def _network(self, name: str) -> str:
        return f"{self.name}_{name}"

    def devices(self) -> dict[str, dict[str, Any]]:
        return {row["device"]: row for row in self.ask("device", "list")}

    def events(self, device: str, version: str) -> list[dict[str, Any]]:
        """State events of one device about one release, oldest first."""
        told = self.ask("device", "show", device)["events"]
        return [event for event in told if event["version"] == version]

    def serving(self, agent: str) -> str | None:
        """What a device says itself; needs no network."""
        told = json.loads(self.run(agent, "cat", "/var/lib/mailboat/data/status.json"))
        models = told["report"]["models"]
        version: str | None = models[0]["serving_version"] if models else None
        return version

    def until(self, what: str, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + CONVERGE_SECONDS_MAX
        while not holds():
            if time.monotonic() > deadline:
                logs = self.compose("logs", "--no-color", "--tail=40")
                told = self.compose("ps")
                pytest.fail(f"not within {CONVERGE_SECONDS_MAX} s: {what}\n{told}\n{logs}")
            time.sleep(POLL_SECONDS)

    def sessions(self) -> dict[str, int]:
        """The number of each device's newest run; they begin anywhere and count up."""
        return {
            name: (row["report"] or {}).get("session", 0) for name, row in self.devices().items()
        }

    def until_online(
        self, names: Sequence[str], *, after: Mapping[str, int] = MappingProxyType({})
    ) -> None:
        """All of them online, in a later run than ``after`` says."""

        def online() -> bool:
            found = self.devices()
            return set(found) == set(names) and all(
                row["online"] and (row["report"] or {}).get("session", 0) > after.get(name, 0)
                for name, row in found.items()
            )

        self.until("all devices are online", online)

    def metric(self, text: str) -> str:
        """What Prometheus answers to a query."""
        own = ("promtool", "query", "instant", "http://127.0.0.1:9090", text)
        return self.run("prometheus", *own)

    def hashes(self, service: str, *places: str) -> dict[str, str]:
        """sha256 of every file below these places of a container, by path."""
        lines = self.run(service, "find", *places, "-type", "f", "-exec", "sha256sum", "{}", "+")
        pairs = [line.split(maxsplit=1) for line in lines.splitlines()]
        return {path: digest for digest, path in pairs}


def in_image(image: str, script: str) -> str:
    """What a shell in a new container of it says."""
    alone = ("--network", "none", "--entrypoint", "/bin/sh")
    return _output(("docker", "run", "--rm", *alone, image, "-c", script))


def _output(command: Sequence[str], seconds_max: float = COMMAND_SECONDS_MAX) -> str:
    done = subprocess.run(
        command,
        cwd=REPOSITORY,
        check=False,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=seconds_max,
    )
    assert done.returncode == 0, f"{command}: {done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout

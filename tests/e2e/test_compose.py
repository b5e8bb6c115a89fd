"""docker-compose.yml: what it may never ask for, and, where a Docker engine is, the stack itself.

The second half needs an engine, Compose, and the base image on this machine; nothing is pulled
for a test. A machine that builds in special ways says so in its own COMPOSE_FILE.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
DOCKER = REPOSITORY / "controller" / "docker"
BASE_IMAGE = "debian:bookworm-slim"
STACK: dict[str, Any] = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = STACK["services"]
AGENTS = {"agent-1": "kiosk-1", "agent-2": "kiosk-2"}
USER = "10001"

BUILD_SECONDS_MAX = 900  # two cores and a slow mirror; a minute and a half where both are good
UP_SECONDS_MAX = 240
DOWN_SECONDS_MAX = 120
COMMAND_SECONDS_MAX = 60
CONVERGE_SECONDS_MAX = 120
POLL_SECONDS = 1.0

SECRET_NAME = re.compile(r"(?i)pass|secret|token|credential|(^|_)key(_|$)")
SECRET_VALUE = re.compile(r"BEGIN [A-Z ]*PRIVATE|[A-Za-z0-9+/_-]{40,}={0,2}$")
BEYOND_THE_CONTAINER = (
    "privileged",
    "network_mode",
    "pid",
    "ipc",
    "cap_add",
    "devices",
    "userns_mode",
)


def volumes_of(service: str) -> dict[str, str]:
    """Mount point and mode by volume; a path of the host would stand among them as ``/…``."""
    parts = [mount.split(":") for mount in SERVICES[service].get("volumes", ())]
    return {name: mode[0] if mode else "rw" for name, _target, *mode in parts}


def dockerfile() -> list[str]:
    joined = (DOCKER / "Dockerfile").read_text().replace("\\\n", " ")
    return [" ".join(line.split()) for line in joined.splitlines() if line[:1].strip("# ")]


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_says_when_it_is_well_or_what_it_waits_for(name: str) -> None:
    assert "healthcheck" in SERVICES[name] or "depends_on" in SERVICES[name]


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_gets_nothing_beyond_its_container(name: str) -> None:
    service = SERVICES[name]

    assert [key for key in BEYOND_THE_CONTAINER if key in service] == []
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is True
    assert set(volumes_of(name)) <= set(STACK["volumes"]), "named volumes, no paths of the host"
    assert [port for port in service.get("ports", ()) if not port.startswith("127.0.0.1:")] == []


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_bounded(name: str) -> None:
    service = SERVICES[name]

    assert {"mem_limit", "pids_limit", "stop_grace_period"} <= set(service)
    assert set(service["logging"]["options"]) == {"max-size", "max-file"}


@pytest.mark.parametrize("name", SERVICES)
def test_no_secret_stands_in_the_environment(name: str) -> None:
    environment = SERVICES[name].get("environment", {})

    assert "env_file" not in SERVICES[name]
    assert [key for key in environment if SECRET_NAME.search(key)] == []
    assert [key for key, value in environment.items() if SECRET_VALUE.search(str(value))] == []


def test_keys_are_seen_only_by_whom_they_belong_to() -> None:
    seen_by = {
        volume: {name for name in SERVICES if volume in volumes_of(name)}
        for volume in STACK["volumes"]
    }

    assert seen_by == {
        "authority": {"authority"},
        "exchange": {"authority", "controller"},
        "controller": {"controller"},
        "kits": {"controller", *AGENTS},
        "kiosk-1": {"agent-1"},
        "kiosk-2": {"agent-2"},
    }
    assert {volumes_of(agent)["kits"] for agent in AGENTS} == {"ro"}


def test_the_controller_makes_kits_for_the_devices_that_are_there() -> None:
    told = SERVICES["controller"]["environment"]["DEVICES"].split()

    assert told == [SERVICES[agent]["environment"]["DEVICE"] for agent in AGENTS]


def test_the_image_holds_pinned_packages_no_secret_and_no_root() -> None:
    lines = dockerfile()
    installs = re.findall(r"pip install [^&\n]*", "\n".join(lines))
    settings = [line for line in lines if line.startswith(("ARG", "ENV"))]

    assert {line for line in lines if line.startswith("FROM")} <= {
        f"FROM {BASE_IMAGE}",
        f"FROM {BASE_IMAGE} AS packages",
    }
    assert len(installs) == 2
    assert "--require-hashes -r requirements/dev.lock" in installs[0]
    assert "--no-deps --no-build-isolation" in installs[1]
    assert [line for line in lines if "unneeded.py 'mailboat[demo]'" in line] != []
    assert [line for line in settings if SECRET_NAME.search(line)] == []
    assert [line for line in lines if line.startswith("USER")] == ["USER mailboat"]
    assert f"--uid {USER} " in "\n".join(lines)


def test_what_only_builds_and_tests_is_not_needed_in_the_image() -> None:
    asked = [sys.executable, str(DOCKER / "unneeded.py"), "mailboat[demo]"]
    done = subprocess.run(
        asked, check=True, capture_output=True, text=True, timeout=COMMAND_SECONDS_MAX
    )
    unneeded = set(done.stdout.split())

    assert {"pytest", "pytest-timeout", "mypy", "ruff", "hatchling"} <= unneeded
    assert unneeded & {"mailboat", "onnxruntime", "fastapi", "tuf", "cffi", "h11", "pip"} == set()


def test_the_build_sees_what_it_copies_and_little_else() -> None:
    rules = [
        line
        for line in (REPOSITORY / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    let_in = {rule[1:] for rule in rules if rule.startswith("!")}
    copied = {
        source
        for line in dockerfile()
        if line.startswith("COPY") and "--from" not in line
        for source in line.split()[1:-1]
    }

    assert rules[0] == "*"
    assert let_in <= {str(path.relative_to(REPOSITORY)) for path in _below(REPOSITORY, 2)}
    assert {source for source in copied if not _is_within(source, let_in)} == set()
    assert {source for source in copied if not (REPOSITORY / source).exists()} == set()


@pytest.mark.parametrize(
    "path", [*sorted(DOCKER.glob("start-*")), DOCKER / "renew-operator"], ids=lambda path: path.name
)
def test_a_script_of_the_image_is_a_program_that_a_shell_understands(path: Path) -> None:
    assert os.access(path, os.X_OK)
    assert "set -eu" in path.read_text()
    subprocess.run(["sh", "-n", str(path)], check=True, timeout=COMMAND_SECONDS_MAX)


def _below(directory: Path, levels: int) -> Iterator[Path]:
    for path in directory.iterdir():
        yield path
        if levels > 1 and path.is_dir() and not path.name.startswith("."):
            yield from _below(path, levels - 1)


def _is_within(source: str, let_in: set[str]) -> bool:
    return any(source == place or source.startswith(f"{place}/") for place in let_in)


# --- the stack itself ----------------------------------------------------------------------------


def _answers(*command: str) -> bool:
    if shutil.which(command[0]) is None:
        return False
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, timeout=COMMAND_SECONDS_MAX
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def _compose_command() -> tuple[str, ...]:
    """
    Raises:
        pytest.skip.Exception: the stack cannot run here, and why.
    """
    if not _answers("docker", "info"):
        pytest.skip("no Docker engine answers")
    if not _answers("docker", "image", "inspect", BASE_IMAGE):
        pytest.skip(f"the image {BASE_IMAGE} is not on this machine, and a test pulls nothing")
    for command in (("docker", "compose"), ("docker-compose",)):
        if _answers(*command, "version"):
            return command
    pytest.skip("there is no Docker Compose")


class Stack:
    """docker-compose.yml under a name of its own."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = [*command, "--project-name", f"mailboat-test-{uuid.uuid4().hex[:8]}"]

    def compose(self, *words: str, seconds_max: float = COMMAND_SECONDS_MAX) -> str:
        done = subprocess.run(
            [*self._command, *words],
            cwd=REPOSITORY,
            check=False,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=seconds_max,
        )
        assert done.returncode == 0, f"{words}: {done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    def up(self) -> None:
        self.compose("up", "--detach", seconds_max=UP_SECONDS_MAX)

    def run(self, service: str, *words: str) -> str:
        return self.compose("exec", "-T", service, *words)

    def ask(self, *words: str) -> Any:
        """What a ``mailboat`` command of the operator answers."""
        return json.loads(self.run("controller", "mailboat", *words, "--json"))

    def devices(self) -> dict[str, dict[str, Any]]:
        return {row["device"]: row for row in self.ask("device", "list")}

    def until(self, what: str, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + CONVERGE_SECONDS_MAX
        while not holds():
            if time.monotonic() > deadline:
                logs = self.compose("logs", "--no-color", "--tail=40")
                pytest.fail(f"not within {CONVERGE_SECONDS_MAX} s: {what}\n{logs}")
            time.sleep(POLL_SECONDS)

    def sessions(self) -> dict[str, int]:
        """The number of each device's newest run; they begin anywhere and count up."""
        return {
            name: (row["report"] or {}).get("session", 0) for name, row in self.devices().items()
        }

    def until_online(self, *, after: Mapping[str, int] = MappingProxyType({})) -> None:
        """Both devices online, in a later run than ``after`` says."""

        def online() -> bool:
            found = self.devices()
            return set(found) == set(AGENTS.values()) and all(
                row["online"] and (row["report"] or {}).get("session", 0) > after.get(name, 0)
                for name, row in found.items()
            )

        self.until("both devices are online", online)

    def hashes(self, service: str, *places: str) -> dict[str, str]:
        """sha256 of every file below these places of a container, by path."""
        lines = self.run(service, "find", *places, "-type", "f", "-exec", "sha256sum", "{}", "+")
        pairs = [line.split(maxsplit=1) for line in lines.splitlines()]
        return {path: digest for digest, path in pairs}


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    running = Stack(_compose_command())
    try:
        running.compose("build", seconds_max=BUILD_SECONDS_MAX)
        running.up()
        yield running
    finally:
        running.compose(
            *("down", "--volumes", "--rmi", "local", "--remove-orphans", "--timeout", "20"),
            seconds_max=DOWN_SECONDS_MAX,
        )


@pytest.mark.slow
def test_two_devices_enrol_by_themselves(stack: Stack) -> None:
    stack.until_online()

    assert {row["hardware_class"] for row in stack.devices().values()} == {"kiosk-x86"}


@pytest.mark.slow
def test_no_container_holds_a_key_of_another(stack: Stack) -> None:
    stack.until_online()
    places = ("/var/lib/mailboat", "/exchange", "/kits")
    keys = stack.hashes("authority", "trust/offline", "trust/approver", "trust/ci")
    on_controller = stack.hashes("controller", *places)

    assert {stack.run(name, "id", "-u").strip() for name in SERVICES} == {USER}
    assert len(keys) == 4
    assert set(keys.values()) & set(on_controller.values()) == set()
    for agent in AGENTS:
        found = stack.run(agent, "grep", "-rl", "PRIVATE KEY", *places).split()
        assert found == ["/var/lib/mailboat/identity/device.key"]


@pytest.mark.slow
def test_the_operator_stays_the_operator(stack: Stack) -> None:
    stack.until_online()
    own = ("cat", "/var/lib/mailboat/controller/connections/operator/token")
    first = stack.run("controller", *own)

    stack.run("controller", "renew-operator")
    renewed = stack.run("controller", *own)
    stack.ask("token", "revoke", "operator", "--reason", "as if it had ended")
    stack.run("controller", "renew-operator")

    assert len({first, renewed, stack.run("controller", *own)}) == 3
    assert len(stack.devices()) == len(AGENTS)


@pytest.mark.slow
def test_a_models_process_is_held_as_docs_docker_md_says(stack: Stack) -> None:
    stack.until_online()
    for agent in AGENTS:
        config = ("--config", "/var/lib/mailboat/agent.toml")
        found = json.loads(stack.run(agent, "mailboat-agent", "doctor", "--json", *config))
        levels = {each["check"]: each["level"] for each in found["findings"]}

        assert {check for check, level in levels.items() if level == "fail"} == set()
        assert {
            check
            for check, level in levels.items()
            if level != "ok" and check.startswith(("confinement.", "memory"))
        } == {"confinement.user"}


@pytest.mark.slow
def test_a_release_goes_from_the_authority_to_both_devices(stack: Stack) -> None:
    stack.until_online()
    release = ("mailboat", "release")
    build, plan = "build/6.0.0", "example/rollout.yaml"

    stack.run("authority", *release, "build", "example/release/release.yaml", "--out", build)
    stack.run("authority", *release, "sign", build, "--key", "trust/ci/vad.pem")
    approver = ("--key", "trust/approver/vad.pem", "--devices-per-class", "2")
    stack.run("authority", *release, "approve", build, "--rollout", plan, *approver)
    stack.run("authority", *release, "submit", build)

    stack.until(
        "the rollout is completed",
        lambda: stack.ask("rollout", "status", "first")["phase"] == "completed",
    )
    models = {name: row["report"]["models"] for name, row in stack.devices().items()}
    assert {name: model["serving_version"] for name, (model,) in models.items()} == {
        "kiosk-1": "6.0.0",
        "kiosk-2": "6.0.0",
    }


@pytest.mark.slow
def test_new_containers_go_on_with_the_same_keys_and_devices(stack: Stack) -> None:
    stack.until_online()
    secrets = {
        "authority": ("/var/lib/mailboat/trust", "/exchange"),
        "controller": ("/var/lib/mailboat/controller/keys", "/var/lib/mailboat/controller/pki"),
        **dict.fromkeys(AGENTS, ("/var/lib/mailboat/identity",)),
    }
    before = {name: stack.hashes(name, *places) for name, places in secrets.items()}
    numbers = {name: row["enrolment_number"] for name, row in stack.devices().items()}
    sessions = stack.sessions()

    stack.compose("down", "--timeout", "20", seconds_max=DOWN_SECONDS_MAX)
    stack.up()
    stack.until_online(after=sessions)

    assert {name: stack.hashes(name, *places) for name, places in secrets.items()} == before
    assert {name: row["enrolment_number"] for name, row in stack.devices().items()} == numbers

"""docker-compose.yml, its images and their scripts: what they may never ask for.

`test_compose_stack.py` runs them, where a Docker engine is.
"""

import os
import re
import subprocess
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from docker_engine import (
    BASE_IMAGE,
    COMMAND_SECONDS_MAX,
    GREEN,
    REPOSITORY,
    SERVICES,
    STACK,
    USER,
    compose_program,
)

DOCKER = REPOSITORY / "controller" / "docker"
DOCKERFILES = (DOCKER / "Dockerfile", REPOSITORY / "agent" / "docker" / "Dockerfile")
SCRIPTS = sorted(
    path
    for directory in (DOCKER, REPOSITORY / "agent" / "docker")
    for path in directory.iterdir()
    if path.read_text().startswith("#!/bin/sh")
)
OURS = sorted(name for name in SERVICES if "build" in SERVICES[name])
PUBLIC = sorted(name for name in SERVICES if "build" not in SERVICES[name])
AGENTS = {"agent-1": "kiosk-1", "agent-2": "kiosk-2", "agent-3": "kiosk-3@harbour"}
LOCKS = {
    "agent": ("agent", "inspect"),
    "controller": ("controller", "postgres", "s3", "hsm"),
    "authority": ("model", "s3", "hsm"),
}

SECRET_NAME = re.compile(r"(?i)pass|secret|token|credential|(^|_)key(_|$)")
SECRET_VALUE = re.compile(r"BEGIN [A-Z ]*PRIVATE|[A-Za-z0-9+/_-]{40,}={0,2}$")
PINNED_TAG = re.compile(r":v?\d+\.\d+\.\d+(-[a-z0-9.]+)?$")
BEYOND_THE_CONTAINER = (
    "privileged",
    "pid",
    "ipc",
    "cap_add",
    "devices",
    "userns_mode",
    "env_file",
)


def mounts(service: str) -> dict[str, tuple[str, str]]:
    """Target and mode by volume; a path of the host stands among them as ``./…``."""
    parts = [mount.split(":") for mount in SERVICES[service].get("volumes", ())]
    return {name: (target, mode[0] if mode else "rw") for name, target, *mode in parts}


def instructions(dockerfile: Path) -> list[str]:
    joined = dockerfile.read_text().replace("\\\n", " ")
    return [" ".join(line.split()) for line in joined.splitlines() if line[:1].strip("# ")]


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_says_when_it_is_well_or_ends_by_itself(name: str) -> None:
    service = SERVICES[name]

    assert ("healthcheck" in service) != (service["restart"] == "no")
    assert name in GREEN or "profiles" in service or service["restart"] == "no"


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_gets_nothing_beyond_its_container(name: str) -> None:
    service = SERVICES[name]
    of_the_host = {path: mode for path, (_target, mode) in mounts(name).items() if "/" in path}

    assert [key for key in BEYOND_THE_CONTAINER if key in service] == []
    assert service.get("network_mode", "none") == "none"
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is True
    assert set(mounts(name)) - set(of_the_host) <= set(STACK["volumes"])
    assert set(of_the_host.values()) <= {"ro"}, "of the host's files, configuration alone"
    dashboards = "./controller/dashboards/"
    assert {path for path in of_the_host if not path.startswith(dashboards)} == set()
    assert {path for path in of_the_host if not (REPOSITORY / path).exists()} == set()
    assert [port for port in service.get("ports", ()) if not port.startswith("127.0.0.1:")] == []


def test_nothing_is_published_unless_asked_for() -> None:
    assert [name for name in SERVICES if "ports" in SERVICES[name]] == ["grafana"]
    assert SERVICES["grafana"]["profiles"] == ["dashboards"]


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_bounded(name: str) -> None:
    service = SERVICES[name]

    assert {"mem_limit", "cpus", "pids_limit", "stop_grace_period"} <= set(service)
    assert set(service["logging"]["options"]) == {"max-size", "max-file"}


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_image_is_pinned_and_has_no_root(name: str) -> None:
    service = SERVICES[name]

    assert PINNED_TAG.search(service["image"]), service["image"]
    assert int(service["user"].partition(":")[0]) > 0


@pytest.mark.parametrize("name", SERVICES)
def test_no_secret_stands_in_the_environment(name: str) -> None:
    environment = SERVICES[name].get("environment", {})
    named = {key: value for key, value in environment.items() if SECRET_NAME.search(key)}

    assert [key for key, value in named.items() if not value.startswith("/run/secrets/")] == []
    assert [key for key, value in environment.items() if SECRET_VALUE.search(str(value))] == []


def test_a_secret_of_an_operator_is_a_file_that_git_does_not_see() -> None:
    defaults = {
        name: secret["file"].partition(":-")[2].rstrip("}")
        for name, secret in STACK["secrets"].items()
    }

    assert defaults == {
        "grafana-admin-password": "./secrets/grafana-admin-password",
        "mailboat_views": "/dev/null",
    }
    assert "/secrets/" in (REPOSITORY / ".gitignore").read_text().splitlines()


def test_keys_are_seen_only_by_whom_they_belong_to() -> None:
    seen_by = {
        volume: {name for name in SERVICES if volume in mounts(name)} for volume in STACK["volumes"]
    }

    assert seen_by == {
        "authority": {"authority"},
        "exchange": {"authority", "controller"},
        "controller": {"controller"},
        "kits": {"controller", *AGENTS},
        "broker": {"controller", "broker"},
        "broker-state": {"controller", "broker"},
        "metrics-credential": {"controller", "prometheus", "grafana"},
        "prometheus": {"prometheus"},
        "alertmanager": {"alertmanager"},
        "grafana": {"grafana"},
        "kiosk-1": {"agent-1"},
        "kiosk-2": {"agent-2"},
        "kiosk-3": {"agent-3"},
        "site-kit": {"controller", "site-setup"},
        "site": {"site-setup", "site-broker", "site-cache"},
        "site-state": {"site-setup", "site-broker", "site-cache"},
    }
    writes = {
        volume: {name for name in seen_by[volume] if mounts(name)[volume][1] == "rw"}
        for volume in ("kits", "broker", "broker-state", "metrics-credential", "site-kit")
    }
    assert writes == {
        "kits": {"controller"},
        "broker": {"controller"},
        "broker-state": {"broker"},
        "metrics-credential": {"controller"},
        "site-kit": {"controller"},
    }


def test_the_site_and_the_centre_meet_on_one_line_alone() -> None:
    on = {
        network: {name for name in SERVICES if network in SERVICES[name].get("networks", ())}
        for network in STACK["networks"]
    }
    site = {"site-broker", "site-cache", "agent-3"}

    assert on["island"] == site
    assert on["wan"] == site | {"controller", "broker"}
    assert on["centre"] & site == set()
    assert {name for name in SERVICES if "networks" not in SERVICES[name]} == {"site-setup"}


def test_the_controller_makes_kits_for_the_devices_that_are_there() -> None:
    environment = SERVICES["controller"]["environment"]
    told = environment["DEVICES"].split()

    assert told == list(AGENTS.values())
    assert [each.partition("@")[0] for each in told] == [
        SERVICES[agent]["environment"]["DEVICE"] for agent in AGENTS
    ]
    assert {each.partition("@")[2] for each in told} == {"", environment["SITE"]}


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.parts[-3])
def test_an_image_holds_pinned_packages_no_secret_and_no_root(dockerfile: Path) -> None:
    lines = instructions(dockerfile)
    stages = {line.split()[-1] for line in lines if line.startswith("FROM") and " AS " in line}
    installs = re.findall(r"pip (?:--python \S+ )?install [^&]*", "\n".join(lines))
    settings = [line for line in lines if line.startswith(("ARG", "ENV"))]

    bases = {line.split()[1] for line in lines if line.startswith("FROM")}
    assert bases - stages == {BASE_IMAGE}
    assert [
        each for each in installs if "--require-hashes" not in each and "--no-deps" not in each
    ] == []
    assert [line for line in settings if SECRET_NAME.search(line)] == []
    assert lines[-3:-1][0] == "USER mailboat"
    assert f"--uid {USER} " in "\n".join(lines)


def test_the_images_share_what_they_begin_with() -> None:
    """An engine builds the same steps once."""
    controller, agent = (instructions(path) for path in DOCKERFILES)
    shared = [line.startswith("RUN /opt/pip/bin/pip wheel") for line in controller].index(True)

    assert agent[: shared + 1] == controller[: shared + 1]


@pytest.mark.parametrize("lock", LOCKS)
def test_an_image_installs_what_was_tested_and_all_that_is_needed(lock: str) -> None:
    """`make lock` writes all of them again."""
    tested, shipped = pinned("dev"), pinned(lock)
    needed: set[str] = set()
    for extra in LOCKS[lock]:
        needed |= set(_needed_by(Requirement(f"mailboat[{extra}]"), set()))

    assert shipped <= tested
    assert needed - {name for name, _version in shipped} == {"mailboat"}


def pinned(lock: str) -> set[tuple[str, str]]:
    text = (REPOSITORY / "requirements" / f"{lock}.lock").read_text()
    return set(re.findall(r"^([a-z0-9._-]+)==(\S+)", text, re.MULTILINE))


def _needed_by(wanted: Requirement, seen: set[tuple[str, str]]) -> Iterator[str]:
    name = canonicalize_name(wanted.name)
    yield name
    for extra in ("", *sorted(wanted.extras)):
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        for line in distribution(name).requires or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                yield from _needed_by(requirement, seen)


def test_the_build_sees_what_it_copies_and_little_else() -> None:
    rules = [
        line
        for line in (REPOSITORY / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    let_in = {rule[1:] for rule in rules if rule.startswith("!")}
    copied = {
        source
        for dockerfile in DOCKERFILES
        for line in instructions(dockerfile)
        if line.startswith("COPY") and "--from" not in line
        for source in line.split()[1:-1]
    }

    assert rules[0] == "*"
    assert let_in <= {str(path.relative_to(REPOSITORY)) for path in _below(REPOSITORY, 2)}
    assert {source for source in copied if not _is_within(source, let_in)} == set()
    assert {source for source in copied if not (REPOSITORY / source).exists()} == set()


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_of_an_image_is_a_program_that_a_shell_understands(path: Path) -> None:
    assert os.access(path, os.X_OK)
    assert "set -eu" in path.read_text()
    subprocess.run(["sh", "-n", str(path)], check=True, timeout=COMMAND_SECONDS_MAX)


@pytest.mark.slow
def test_compose_understands_the_file_with_and_without_dashboards(tmp_path: Path) -> None:
    program = compose_program()
    if program is None:
        pytest.skip("there is no Docker Compose")
    password = tmp_path / "password"
    password.write_text("of a test")
    around = {**os.environ, "GRAFANA_ADMIN_PASSWORD_FILE": str(password), "COMPOSE_FILE": ""}
    for profile in ((), ("--profile", "dashboards")):
        done = subprocess.run(
            [*program, "--file", "docker-compose.yml", *profile, "config"],
            check=True,
            capture_output=True,
            text=True,
            cwd=REPOSITORY,
            env=around,
            timeout=COMMAND_SECONDS_MAX,
        )
        understood: dict[str, Any] = yaml.safe_load(done.stdout)
        expected = {name for name in SERVICES if profile or "profiles" not in SERVICES[name]}
        assert set(understood["services"]) >= expected


def _below(directory: Path, levels: int) -> Iterator[Path]:
    for path in directory.iterdir():
        yield path
        if levels > 1 and path.is_dir() and not path.name.startswith("."):
            yield from _below(path, levels - 1)


def _is_within(source: str, let_in: set[str]) -> bool:
    return any(source == place or source.startswith(f"{place}/") for place in let_in)

"""docker-compose.yml and the scripts in its images: what they may never ask for.

`test_compose_images.py` is about the images; `test_compose_stack.py` runs them all, where a Docker
engine is.
"""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from docker_engine import (
    COMMAND_SECONDS_MAX,
    GREEN,
    REPOSITORY,
    SERVICES,
    STACK,
    compose_program,
)

DOCKER = REPOSITORY / "controller" / "docker"
SCRIPTS = sorted(
    path
    for directory in (DOCKER, REPOSITORY / "agent" / "docker")
    for path in directory.iterdir()
    if path.read_text().startswith("#!/bin/sh")
)
PUBLIC = sorted(name for name in SERVICES if "build" not in SERVICES[name])
AGENTS = {"agent-1": "kiosk-1", "agent-2": "kiosk-2", "agent-3": "kiosk-3@harbour"}

SECRET_NAME = re.compile(r"(?i)pass|secret|token|credential|(^|_)key(_|$)")
SECRET_VALUE = re.compile(r"BEGIN [A-Z ]*PRIVATE|[A-Za-z0-9+/_-]{40,}={0,2}$")
PINNED_TAG = re.compile(r":v?\d+\.\d+\.\d+(-[a-z0-9.]+)?(@sha256:[0-9a-f]{64})?$")
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


def test_a_device_reaches_whom_it_needs_and_the_site_the_centre_on_one_line() -> None:
    on = {
        network: {name for name in SERVICES if network in SERVICES[name].get("networks", ())}
        for network in STACK["networks"]
    }
    site = {"site-broker", "site-cache", "agent-3"}

    assert on["island"] == site
    assert on["wan"] == site | {"controller", "broker"}
    assert on["centre"] & site == set()
    assert on["centre"] == {"authority", "controller", "broker", "agent-1", "agent-2"}
    assert on["watch"] == {"controller", "broker", "prometheus", "alertmanager", "grafana"}
    assert {name for name in SERVICES if "networks" not in SERVICES[name]} == {"site-setup"}


@pytest.mark.parametrize("name", [name for name in PUBLIC if "10001" in SERVICES[name]["user"]])
def test_a_volume_of_our_files_is_at_no_place_that_a_public_image_has(name: str) -> None:
    """An empty volume there would take over their owner, and ours could not write to it."""
    theirs = ("/mosquitto", "/etc", "/var", "/usr")

    assert [at for at, _mode in mounts(name).values() if at.startswith(theirs)] == []


def test_a_broker_leaves_no_volume_without_a_name_behind() -> None:
    """Its image declares two: https://hub.docker.com/_/eclipse-mosquitto."""
    brokers = [name for name in PUBLIC if "mosquitto" in SERVICES[name]["image"]]

    assert len(brokers) == 2
    for name in brokers:
        tmpfs = {place.partition(":")[0] for place in SERVICES[name]["tmpfs"]}
        assert tmpfs == {"/tmp", "/mosquitto/data", "/mosquitto/log"}  # noqa: S108


def test_the_controller_makes_kits_for_the_devices_that_are_there() -> None:
    environment = SERVICES["controller"]["environment"]
    told = environment["DEVICES"].split()

    assert told == list(AGENTS.values())
    assert [each.partition("@")[0] for each in told] == [
        SERVICES[agent]["environment"]["DEVICE"] for agent in AGENTS
    ]
    assert {each.partition("@")[2] for each in told} == {"", environment["SITE"]}


def test_grafana_finds_whatever_its_provisioning_names() -> None:
    grafana = SERVICES["grafana"]
    targets = {target: source for source, (target, _mode) in mounts("grafana").items()}
    provisioning = REPOSITORY / targets["/etc/grafana/provisioning"]
    written = "".join(path.read_text() for path in sorted(provisioning.glob("*/*.yaml")))

    files = set(re.findall(r"\$__file\{([^}]+)\}", written))
    of_the_controller = {
        "prometheus/ca.pem",
        "prometheus/prometheus.pem",
        "prometheus/prometheus.key",
    }
    assert targets["/etc/grafana/credential"] == "metrics-credential"
    assert files == {f"/etc/grafana/credential/{name}" for name in of_the_controller} | {
        "/run/secrets/mailboat_views"
    }
    assert "mailboat_views" in grafana["secrets"]
    hosts = set(re.findall(r"(?:http|tls)://([a-z]+):", written))
    assert {host for host in hosts if "watch" not in SERVICES[host]["networks"]} == set()
    (boards,) = re.findall(r"path: (/etc/grafana/\S+)", written)
    assert list((REPOSITORY / targets[boards]).glob("*.json"))
    wanted = set(re.findall(r"\$\{(\w+)\}", written))
    assert wanted <= set(grafana["environment"])


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

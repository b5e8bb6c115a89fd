"""The story of a release on docker-compose.yml, as docs/docker.md tells it."""

import json
from typing import Any

from docker_engine import Stack
from mailboat_controller.demo.samples import Array
from mailboat_schemas.deltas import Delivery, delivery_of

RELEASES = {"a": "6.2.0", "b": "6.2.1", "c": "6.2.2", "d": "6.2.3"}
APPROVER_KEY = ("--key", "trust/approver/vad.pem")
AS_APPROVER = ("--connection", "/exchange/approver/connection.toml")


def hand_in(stack: Stack, letter: str) -> None:
    build = f"build/{letter}"
    release = ("mailboat", "release")
    stack.run("authority", *release, "build", f"example/{letter}/release.yaml", "--out", build)
    stack.run("authority", *release, "sign", build, "--key", "trust/ci/vad.pem")
    stack.run("authority", *release, "submit", build)


def approve(stack: Stack, letter: str) -> None:
    plan = ("--rollout", f"example/{letter}/rollout.yaml", "--devices-per-class", "3")
    command = ("mailboat", "release", "approve", "vad", RELEASES[letter], "--yes")
    stack.run("authority", *command, *plan, *APPROVER_KEY, *AS_APPROVER)


def publish(stack: Stack, letter: str) -> None:
    hand_in(stack, letter)
    approve(stack, letter)


def phase(stack: Stack, letter: str) -> str:
    found: str = stack.ask("rollout", "status", letter)["phase"]
    return found


def until_served(stack: Stack, letter: str, *agents: str) -> None:
    stack.until(
        f"{', '.join(agents)} serve {letter}",
        lambda: {stack.serving(agent) for agent in agents} == {RELEASES[letter]},
    )


def delivery(stack: Stack, device: str, letter: str) -> Delivery | None:
    """How a release came to a device, as it said itself."""
    (tried,) = [
        event
        for event in stack.events(device, RELEASES[letter])
        if event["kind"] == "trial_started"
    ]
    return delivery_of(tried["content"].get("evidence", {}))


ASKER = """
import json, sys, urllib.error, urllib.request
for line in sys.argv[1].split("\\n"):
    url = "http://127.0.0.1:8080/v2/models/vad/infer"
    request = urllib.request.Request(url, line.encode(), {"Content-Type": "application/json"})
    try:
        urllib.request.urlopen(request, timeout=60).read()
    except (urllib.error.URLError, OSError):
        pass
"""
DATATYPES = {"float32": "FP32", "int64": "INT64"}


def ask(stack: Stack, agent: str, batch: list[dict[str, Array]]) -> None:
    """Requests from beside the model: its API listens on its container's loopback alone."""
    bodies = [json.dumps({"inputs": [tensor(*each) for each in one.items()]}) for one in batch]
    stack.run(agent, "python3", "-c", ASKER, "\n".join(bodies))


def tensor(name: str, array: Array) -> dict[str, Any]:
    return {
        "name": name,
        "shape": list(array.shape),
        "datatype": DATATYPES[str(array.dtype)],
        "data": [round(value, 4) for value in array.reshape(-1).tolist()],
    }

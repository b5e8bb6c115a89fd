"""docker-compose.yml on a real Docker engine: everything comes up green, and the story of a release
is told on it: published, updated by a patch, refused, rolled back, withdrawn, with a site cut off.

One stack for all tests, in this order.
"""

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from docker_engine import BUILD_SECONDS_MAX, GREEN, SERVICES, USER, Stack
from mailboat_controller.demo.samples import Array, live_request
from mailboat_schemas.deltas import Delivery, DeliveryOutcome, delivery_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

AGENTS = {"agent-1": "kiosk-1", "agent-2": "kiosk-2", "agent-3": "kiosk-3"}
AT_THE_CENTRE = ("agent-1", "agent-2")
AT_THE_SITE = ("site-broker", "site-cache", "agent-3")
RELEASES = {"a": "6.2.0", "b": "6.2.1", "c": "6.2.2", "d": "6.2.3"}
APPROVER_KEY = ("--key", "trust/approver/vad.pem")
AS_APPROVER = ("--connection", "/exchange/approver/connection.toml")
REQUESTS_A_BATCH = 10


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    running = Stack()
    try:
        running.compose("build", seconds_max=BUILD_SECONDS_MAX)
        running.up()
        running.until_online(tuple(AGENTS.values()))
        yield running
    finally:
        running.down("--volumes", "--remove-orphans")


def test_every_service_is_green_and_nobody_is_root(stack: Stack) -> None:
    states = {name: stack.state(name) for name in GREEN}

    assert {state["Health"]["Status"] for state in states.values()} == {"healthy"}
    uids = {name: stack.run(name, "id", "-u").strip() for name in GREEN}
    assert "0" not in uids.values()
    assert {uids[name] for name in GREEN if "build" in SERVICES[name]} == {USER}


def test_devices_enrol_by_themselves_each_at_its_place(stack: Stack) -> None:
    rows = stack.devices()
    (site,) = stack.ask("site", "list")

    assert {row["hardware_class"] for row in rows.values()} == {"kiosk-x86"}
    assert {name: row["site"] for name, row in rows.items()} == {
        "kiosk-1": "-",
        "kiosk-2": "-",
        "kiosk-3": "harbour",
    }
    assert (site["name"], site["link"]) == ("harbour", "connected")


def test_no_container_holds_a_key_of_another(stack: Stack) -> None:
    keys = stack.hashes("authority", "trust/offline", "trust/approver", "trust/ci")
    on_controller = stack.hashes("controller", "/var/lib/mailboat", "/exchange", "/kits", "/broker")

    assert len(keys) == 4
    assert set(keys.values()) & set(on_controller.values()) == set()
    for agent in AGENTS:
        places = ("/var/lib/mailboat", "/kits")
        found = stack.run(agent, "grep", "-rl", "PRIVATE KEY", *places).split()
        assert found == ["/var/lib/mailboat/identity/device.key"]


def test_the_operator_stays_the_operator(stack: Stack) -> None:
    own = ("cat", "/var/lib/mailboat/controller/connections/operator/token")
    first = stack.run("controller", *own)

    stack.run("controller", "renew-operator")
    renewed = stack.run("controller", *own)
    stack.ask("token", "revoke", "operator", "--reason", "as if it had ended")
    stack.run("controller", "renew-operator")

    assert len({first, renewed, stack.run("controller", *own)}) == 3
    assert len(stack.devices()) == len(AGENTS)


def test_a_models_process_is_held_as_docs_docker_md_says(stack: Stack) -> None:
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


def test_prometheus_sees_the_controller_and_tells_alertmanager(stack: Stack) -> None:
    def query(text: str) -> str:
        own = ("promtool", "query", "instant", "http://127.0.0.1:9090", text)
        return stack.run("prometheus", *own)

    stack.until("Prometheus scrapes", lambda: "=> 1 " in query('up{job="mailboat"}'))
    assert "=> 1 " in query("prometheus_notifications_alertmanagers_discovered")
    stack.until("the broker is there", lambda: "=> 1 " in query("mailboat_broker_connected"))


# --- the story -----------------------------------------------------------------------------------


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


def test_a_release_goes_to_everybody_and_to_the_site_through_its_cache(stack: Stack) -> None:
    publish(stack, "a")

    until_served(stack, "a", *AGENTS)
    stack.until("the rollout is completed", lambda: phase(stack, "a") == "completed")
    assert "/v1/artifacts/sha256/" in stack.compose("logs", "--no-color", "site-cache")


def test_an_update_comes_as_a_patch_and_late_to_a_site_that_was_cut_off(stack: Stack) -> None:
    hand_in(stack, "b")
    path = ("release", "delta", "vad", "--from", RELEASES["a"], "--to", RELEASES["b"])
    stack.ask(*path, "--explain")  # returns once the patch is there
    stack.cut(*AT_THE_SITE)

    approve(stack, "b")
    until_served(stack, "b", *AT_THE_CENTRE)
    stack.until("the cut is told", lambda: stack.ask("site", "list")[0]["link"] == "cut")
    assert stack.serving("agent-3") == RELEASES["a"]

    stack.mend(*AT_THE_SITE)
    until_served(stack, "b", "agent-3")
    stack.until("the rollout is completed", lambda: phase(stack, "b") == "completed")
    for device in AGENTS.values():
        came = delivery(stack, device, "b")
        assert came is not None
        assert came.outcome is DeliveryOutcome.DELTA


def test_a_bad_release_is_refused_by_its_trial_and_goes_no_further(stack: Stack) -> None:
    publish(stack, "c")

    stack.until("the rollout is halted", lambda: phase(stack, "c") == "halted")
    kinds = [event["kind"] for event in stack.events("kiosk-1", RELEASES["c"])]
    assert "trial_failed" in kinds
    assert stack.events("kiosk-2", RELEASES["c"]) == []
    assert stack.events("kiosk-3", RELEASES["c"]) == []
    until_served(stack, "b", *AGENTS)


def test_what_fails_on_live_traffic_is_rolled_back(stack: Stack) -> None:
    publish(stack, "d")
    until_served(stack, "d", "agent-1")

    rng = random.Random(1)

    def asked_until_it_went_back() -> bool:
        ask(stack, "agent-1", [live_request(rng, loud=True) for _ in range(REQUESTS_A_BATCH)])
        return stack.serving("agent-1") == RELEASES["b"]

    stack.until("kiosk-1 is back at b", asked_until_it_went_back)
    stack.until("the rollout is halted", lambda: phase(stack, "d") == "halted")
    kinds = [event["kind"] for event in stack.events("kiosk-1", RELEASES["d"])]
    assert "rolled_back" in kinds


def test_a_withdrawn_release_is_served_nowhere(stack: Stack) -> None:
    reason = ("--reason", "it mishears", "--yes")
    command = ("mailboat", "release", "withdraw", "vad", RELEASES["b"], *reason)
    stack.run("authority", *command, *APPROVER_KEY, *AS_APPROVER)

    until_served(stack, "a", *AGENTS)


def test_every_event_came_once_and_in_order(stack: Stack) -> None:
    def complete() -> bool:
        rows = stack.devices()
        return all(row["online"] for row in rows.values())

    stack.until("everybody is online", complete)
    for device in AGENTS.values():
        sequences = [each["sequence"] for each in stack.ask("device", "show", device)["events"]]
        assert sequences == list(range(sequences[0], sequences[0] + len(sequences)))


def test_a_revoked_device_is_cut_off_by_a_broker_in_another_container(stack: Stack) -> None:
    stack.ask("device", "revoke", "kiosk-2", "--reason", "stolen from the lobby")

    def is_cut_off() -> bool:
        told = json.loads(stack.run("agent-2", "cat", "/var/lib/mailboat/data/status.json"))
        return bool(told["connected"] is False)

    stack.until("kiosk-2 has no broker any more", is_cut_off)


def test_new_containers_go_on_with_the_same_keys_and_devices(stack: Stack) -> None:
    secrets = {
        "authority": ("/var/lib/mailboat/trust", "/exchange"),
        "controller": ("/var/lib/mailboat/controller/keys", "/var/lib/mailboat/controller/pki"),
        **dict.fromkeys(AGENTS, ("/var/lib/mailboat/identity",)),
        "site-broker": ("/site",),
    }
    before = {name: stack.hashes(name, *places) for name, places in secrets.items()}
    numbers = {name: row["enrolment_number"] for name, row in stack.devices().items()}

    stack.down()
    stack.up()
    stack.until(
        "the devices in force are online",
        lambda: (
            {n for n, row in stack.devices().items() if row["online"]} >= {"kiosk-1", "kiosk-3"}
        ),
    )

    after = {name: stack.hashes(name, *places) for name, places in secrets.items()}
    # What is fetched or kept up to date at the site may be newer.
    for name in ("acl", "crl.pem"):
        before["site-broker"].pop(f"/site/{name}")
        after["site-broker"].pop(f"/site/{name}")
    assert after == before
    assert {name: row["enrolment_number"] for name, row in stack.devices().items()} == numbers


ASKER = """
import json, sys, urllib.error, urllib.request
for line in sys.argv[1].split("\\n"):
    url = "http://127.0.0.1:8080/v2/models/vad/infer"
    request = urllib.request.Request(url, line.encode(), {"Content-Type": "application/json"})
    try:
        urllib.request.urlopen(request, timeout=10).read()
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

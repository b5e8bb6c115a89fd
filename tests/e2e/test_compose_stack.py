"""docker-compose.yml on a real Docker engine: everything comes up green, and the story of a release
is told on it: published, updated by a patch, refused, rolled back, withdrawn, with a site cut off.

One stack for all tests, in this order.
"""

import json
import random
from collections.abc import Iterator

import pytest

from docker_engine import BUILD_SECONDS_MAX, GREEN, SERVICES, UP_SECONDS_MAX, USER, Stack, in_image
from docker_story import (
    APPROVER_KEY,
    AS_APPROVER,
    RELEASES,
    approve,
    ask,
    delivery,
    hand_in,
    phase,
    publish,
    until_served,
)
from mailboat_controller.demo.samples import live_request
from mailboat_schemas.deltas import DeliveryOutcome

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

AGENTS = {"agent-1": "kiosk-1", "agent-2": "kiosk-2", "agent-3": "kiosk-3"}
AT_THE_CENTRE = ("agent-1", "agent-2")
AT_THE_SITE = ("site-broker", "site-cache", "agent-3")
REQUESTS_A_BATCH = 10
OURS = [name for name in SERVICES if "build" in SERVICES[name]]
YEARLY = (
    "/exchange/pipeline",
    "/broker/watch",
    "/metrics-credential/prometheus",
    "/site-kit/kit.tar",
)
TOOLS_LISTED = "for tool in pip pip3 cc gcc make git; do command -v $tool || :; done"
PRIVATE_KEYS_LISTED = (
    "find / -xdev -type f \\( -name '*.pem' -o -name '*.key' -o -name '.env*' \\) 2>/dev/null"
    " | xargs -r grep -l PRIVATE || :"
)


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
    made = stack.hashes("authority", "trust")
    keys = {
        path: digest
        for path, digest in made.items()
        if path.endswith(".pem") and not path.startswith("trust/controller/")
    }
    on_controller = stack.hashes("controller", "/var/lib/mailboat", "/exchange", "/kits", "/broker")

    assert {path.split("/")[1] for path in keys} >= {"offline", "approver", "ci"}
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
    stack.until("Prometheus scrapes", lambda: "=> 1 " in stack.metric('up{job="mailboat"}'))
    assert "=> 1 " in stack.metric("prometheus_notifications_alertmanagers_discovered")
    stack.until("the broker is there", lambda: "=> 1 " in stack.metric("mailboat_broker_connected"))


@pytest.mark.parametrize("image", sorted({SERVICES[name]["image"] for name in OURS}))
def test_an_image_has_no_tools_to_build_with_no_tests_and_no_keys(stack: Stack, image: str) -> None:
    assert in_image(image, TOOLS_LISTED) == ""
    assert in_image(image, "find /opt -type d -name tests") == ""
    assert in_image(image, PRIVATE_KEYS_LISTED) == ""


def test_a_device_can_be_looked_into(stack: Stack) -> None:
    told = stack.run("agent-1", "mailboat-agent", "db", "tables", "--json")

    assert json.loads(told)["tables"]


def test_a_broker_that_comes_late_is_told_and_awaited(stack: Stack) -> None:
    """The controller is well meanwhile: it answers, and a restart would bring no broker back."""
    stack.compose("stop", "broker")
    stack.until("it is told", lambda: "=> 0 " in stack.metric("mailboat_broker_connected"))
    stack.compose("restart", "controller")
    stack.until("the controller is well", lambda: stack.health("controller") == "healthy")
    assert stack.health("agent-1") == "healthy"

    stack.compose("start", "broker")
    stack.until("everything is green", stack.is_green)
    stack.until_online(tuple(AGENTS.values()))


# --- the story -----------------------------------------------------------------------------------


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
        return bool(stack.serving("agent-1") == RELEASES["b"])

    stack.until("kiosk-1 is back at b", asked_until_it_went_back)
    stack.until("the rollout is halted", lambda: phase(stack, "d") == "halted")
    kinds = [event["kind"] for event in stack.events("kiosk-1", RELEASES["d"])]
    assert "rolled_back" in kinds


def test_a_withdrawn_release_is_served_nowhere(stack: Stack) -> None:
    reason = ("--reason", "it mishears", "--yes")
    command = ("mailboat", "release", "withdraw", "vad", RELEASES["b"], *reason)
    stack.run("authority", *command, *APPROVER_KEY, *AS_APPROVER)

    until_served(stack, "a", *AGENTS)


def test_everything_comes_back_after_a_power_cut_in_any_order(stack: Stack) -> None:
    before = stack.sessions()

    stack.power_cut()

    stack.until("everything is green", stack.is_green)
    stack.until_online(tuple(AGENTS.values()), after=before)
    until_served(stack, "a", *AGENTS)


def test_what_ends_within_two_months_is_made_anew(stack: Stack) -> None:
    """As docs/docker.md says to do once a year, on credentials that look that old."""
    stack.run("controller", "touch", "-d", "301 days ago", *YEARLY)
    before = stack.hashes("controller", *YEARLY)
    at_site = stack.hashes("site-broker", "/site/bridge.pem", "/site/server.pem")
    sessions = stack.sessions()

    stack.compose("restart", "controller")
    stack.until("the controller is well", lambda: stack.health("controller") == "healthy")
    stack.until(
        "a new kit is made",
        lambda: stack.hashes("controller", YEARLY[-1]).items().isdisjoint(before.items()),
    )
    stack.compose("up", "--detach", seconds_max=UP_SECONDS_MAX)

    renewed = stack.hashes("controller", *YEARLY)
    assert {path for path in before if before[path] == renewed[path]} == {
        path for path in before if path.endswith(("/ca.pem", ".toml"))
    }
    stack.until(
        "the site has it",
        lambda: (
            stack.hashes("site-broker", "/site/bridge.pem", "/site/server.pem")
            .items()
            .isdisjoint(at_site.items())
        ),
    )
    stack.until("the bridge is there", lambda: stack.ask("site", "list")[0]["link"] == "connected")
    stack.until("everything is green", stack.is_green)
    stack.until("the cache has it", lambda: "a new kit is here" in cache_log(stack))
    assert stack.sessions() == sessions, "no device had to start again"


def cache_log(stack: Stack) -> str:
    return stack.compose("logs", "--no-color", "site-cache")


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


def test_nothing_is_left_where_everything_was_to_be_forgotten(stack: Stack) -> None:
    stack.down("--volumes")

    assert stack.leftovers() == ""

"""The dashboards on a running fleet: a real Prometheus scrapes the controller with a dashboard's
certificate, and what live panels show is on the running broker."""

import json
import random
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from dashboard_panels import panel_queries
from mailboat_controller.demo.fleet import FLEET, until
from mailboat_controller.demo.models import KIOSK, MODEL_NAME, live_request
from mailboat_controller.demo.traffic import infer
from prometheus_server import INSTALLED, PrometheusServer, prometheus_of
from real_fleet import RealFleet, running_fleet

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not INSTALLED, reason="Prometheus (Debian: prometheus) is not installed"),
    pytest.mark.skipif(shutil.which("mosquitto_sub") is None, reason="no mosquitto-clients"),
]
RULES = Path(__file__).parents[2] / "controller" / "dashboards" / "prometheus" / "alerts.yml"
PATIENCE_SECONDS = 120
CANARY = "kiosk-1"
GOOD = "6.0.0"  # older than the bad one
SITE = "harbour"
# What this fleet cannot have; tests/controller/dashboards has each of them.
WITHOUT = {
    # Need releases of other kinds: with a reference, with a candidate, with a fallback.
    "mailboat-quality: Drift, p90",
    "mailboat-quality: Shadow",
    "mailboat-quality: Degraded answers",
    # Needs a machine that knows what it uses: a container has no gauge.
    "mailboat-quality: Inferences per joule",
    # Is of a release that failed after it had served; the bad one here never serves.
    "mailboat-rollout: Time to recover",
    # Need a release before the one that serves; the second one here is the bad one.
    "mailboat-fleet: A way back that was proven",
    "mailboat-fleet: A return would take",
}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealFleet]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MAILBOAT_METRICS_CANARIES", json.dumps([CANARY]))
        with running_fleet(tmp_path_factory.mktemp("fleet"), devices_per_class=1) as running:
            running.publish("first", GOOD)
            running.wait_for(GOOD)
            running.wait_until_completed(f"{MODEL_NAME}-first")
            # One that its own golden samples catch, on whichever device is first.
            bad = running.fleet.directory / "sources" / "C" / "release.yaml"
            running.publisher.publish("second", bad, waves="- percent: 100")
            until(
                "a trial failed",
                lambda: any(
                    event["kind"] == "trial_failed"
                    for device in running.devices
                    for event in running.fleet.events(device)
                ),
                PATIENCE_SECONDS,
            )
            connect_a_site(running)
            yield running


def connect_a_site(fleet: RealFleet) -> None:
    """What its bridge says when it has connected, in its name and with its key."""
    files = fleet.fleet
    operator = ("--connection", str(files.operator))
    files.command(
        *("site", "add", SITE, "--broker-host", "localhost", "--policy", "normal", *operator)
    )
    kit = files.directory / "kit.tar"
    config = str(files.data / "controller.toml")
    files.command("site", "kit", SITE, "--out", str(kit), "--config", config)
    with tarfile.open(kit) as archive:
        archive.extractall(files.directory / "kit", filter="data")
    (bridge,) = (files.directory / "kit").rglob("bridge.pem")

    def told() -> bool:
        done = subprocess.run(
            [
                *("mosquitto_pub", "-V", "mqttv5", "-h", "127.0.0.1", "-p", str(files.mqtt_port)),
                *("-i", SITE, "--cafile", str(bridge.with_name("ca.pem"))),
                *("--cert", str(bridge), "--key", str(bridge.with_suffix(".key"))),
                *("-t", f"$SYS/broker/connection/{SITE}/state", "-m", "1", "-q", "1", "-r"),
            ],
            check=False,
            capture_output=True,
            timeout=PATIENCE_SECONDS,
        )
        # The broker goes by the new site a moment after it is there.
        return done.returncode == 0 and not done.stderr

    until("the site's bridge told that it is there", told, PATIENCE_SECONDS)


@pytest.fixture(scope="module")
def credential(fleet: RealFleet) -> Path:
    out = fleet.fleet.directory / "prometheus-credential"
    fleet.fleet.command(
        *("credential", "issue", "prometheus", "--kind", "dashboard", "--out", str(out)),
        *("--config", str(fleet.fleet.data / "controller.toml")),
    )
    return out


@pytest.fixture(scope="module")
def prometheus(
    fleet: RealFleet, credential: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PrometheusServer]:
    scrape = {
        "scheme": "https",
        "tls_config": {
            "ca_file": str(credential / "ca.pem"),
            "cert_file": str(credential / "prometheus.pem"),
            "key_file": str(credential / "prometheus.key"),
        },
        "static_configs": [{"targets": [f"127.0.0.1:{fleet.fleet.api_port}"]}],
    }
    directory = tmp_path_factory.mktemp("metrics") / "prometheus"
    with prometheus_of(directory, scrape, rules=RULES) as server:
        yield server


def ask_every_device(fleet: RealFleet, rng: random.Random) -> None:
    """As an application does that says how good the answer was."""
    for device in fleet.devices.values():
        port = device.serving_port or 0
        version, _ = infer(port, live_request(rng, loud=False))
        post = {
            "model": MODEL_NAME,
            "release": version,
            "counters": {"accuracy": {"good": 1, "total": 1}},
            "values": {"order_eur": 12.5},
        }
        url = f"http://127.0.0.1:{port}/v1/feedback"
        with urlopen(Request(url, json.dumps(post).encode()), timeout=PATIENCE_SECONDS):
            pass


def test_every_panel_shows_the_running_fleet(
    fleet: RealFleet, prometheus: PrometheusServer
) -> None:
    rng = random.Random(1)
    asked = [query for query in panel_queries({}) if query.kind == "prometheus"]

    def empty() -> list[str]:
        ask_every_device(fleet, rng)
        return [q.name for q in asked if q.name not in WITHOUT and not prometheus.ask(q.text)]

    deadline = time.monotonic() + PATIENCE_SECONDS
    while (without := empty()) and time.monotonic() < deadline:
        time.sleep(1)
    assert without == []

    prometheus.wait_for(
        "sum(mailboat_model_devices_current) / sum(mailboat_model_devices_assigned) == 1"
    )
    prometheus.wait_for(f'mailboat_canary_info{{device="{CANARY}", version="{GOOD}"}}')
    (none,) = prometheus.ask('count({device!=""}) or vector(0)')
    assert float(none["value"][1]) == 2.0  # of the canary alone


def test_nothing_is_wrong_with_a_fleet_that_is_well(
    fleet: RealFleet, prometheus: PrometheusServer
) -> None:
    prometheus.wait_for("mailboat_broker_connected == 1")

    alerts = prometheus.ask('ALERTS{alertstate="firing"}')

    assert alerts == []


def test_every_live_panel_finds_its_fields_on_the_running_broker(
    fleet: RealFleet, credential: Path
) -> None:
    rng = random.Random(2)
    names = {
        "fleet": FLEET,
        "hardware_class": KIOSK,
        "model": MODEL_NAME,
        "rollout": f"{MODEL_NAME}-first",
    }
    live = [
        query
        for query in panel_queries(names)
        if query.kind == "mqtt" and query.panel != "Site"  # this fleet's devices have none
    ]

    def missing() -> list[str]:
        ask_every_device(fleet, rng)
        held = retained(fleet, credential)
        return [
            f"{query.name}: {field}"
            for query in live
            for field in query.fields
            if not isinstance(held.get(query.text, {}).get(field), int | float)
        ]

    until("every field is there", lambda: not missing(), PATIENCE_SECONDS)


def retained(fleet: RealFleet, credential: Path) -> dict[str, dict[str, object]]:
    """What the broker hands to a dashboard that subscribes now."""
    done = subprocess.run(
        [
            "mosquitto_sub",
            *("-h", "127.0.0.1", "-p", str(fleet.fleet.mqtt_port), "-i", "prometheus"),
            *("--cafile", str(credential / "ca.pem")),
            *("--cert", str(credential / "prometheus.pem")),
            *("--key", str(credential / "prometheus.key")),
            *("-t", f"mb/1/{FLEET}/stats/#", "-v", "-W", "2"),
        ],
        check=False,
        capture_output=True,
        text=True,
    )
    lines = (line.split(" ", 1) for line in done.stdout.splitlines())
    return {topic: json.loads(content) for topic, content in lines}

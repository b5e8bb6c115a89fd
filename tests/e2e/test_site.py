"""A site with a broker of its own, in a network namespace: its cable is cut and mended.

Two real mosquittos, a real bridge from a kit that nobody edited, real agents at the site.
"""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailboat_controller.demo.fleet import Device, until
from site_fleet import LINK_SECONDS_MAX, SiteStory, running_site
from site_network import SiteNetwork

PATIENCE_SECONDS = 120

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture
def story(network: SiteNetwork, tmp_path: Path) -> Iterator[SiteStory]:
    with running_site(tmp_path / "fleet", network) as story:
        story.site_fleet.wait_for_link("connected")
        story.publish("start", "1.0.0")
        story.wait_for("1.0.0")
        story.wait_until_completed("vad-start")
        story.wait_for_confirmation()
        yield story


def wait(what: str, holds: object) -> None:
    assert callable(holds)
    until(what, holds, PATIENCE_SECONDS)


def newest_manifest(story: SiteStory, device: Device) -> int:
    """The counter that the centre published last for the device's class."""
    roll_up = story.fleet.get("/v1/stats")[f"class/{device.hardware_class}"]
    return int(roll_up["manifest_counter"])


def knows_manifest(device: Device) -> int:
    report = device.read("status.json").get("report", {})
    return int(report.get("manifest_counter", 0))


def presence(story: SiteStory, device: Device) -> str:
    return str(story.fleet.get(f"/v1/devices/{device.name}")["presence"])


def assert_nothing_lost_or_doubled(story: SiteStory) -> None:
    story.wait_for_confirmation()
    for device in story.devices.values():
        sequences = [event["sequence"] for event in story.fleet.events(device.name)]
        assert sequences == list(range(1, story.events_told_by(device) + 1)), device.name


def test_a_site_lives_on_while_it_is_cut_off_and_catches_up_when_it_is_not(
    story: SiteStory, network: SiteNetwork
) -> None:
    site = story.site_fleet
    kiosk, gateway = story.devices["kiosk-1"], story.devices["gateway-1"]
    # One device is off when a release comes, the other tries it when the cable is cut.
    gateway.process.stop()
    story.soak_seconds = 20.0  # more than the autosave_interval of the site's broker
    story.publish("second", "1.1.0")
    wait("the kiosk soaks", lambda: kiosk.model().get("phase") == "soak")
    newest = newest_manifest(story, gateway)
    network.cut()

    wait("the kiosk has committed", lambda: kiosk.model().get("phase") == "committed")
    assert (kiosk.events_unconfirmed or 0) > 0
    site.broker.kill()
    site.broker.start()
    gateway.process.start()
    wait("the site's broker knew the newest", lambda: knows_manifest(gateway) >= newest)
    wait("the gateway serves", lambda: gateway.model().get("serving_version") == "1.1.0")
    kiosk.process.kill()
    kiosk.process.start()
    wait("the kiosk serves", lambda: kiosk.model().get("serving_version") == "1.1.0")
    site.wait_for_link("cut")
    wait(
        "nobody knows how they are",
        lambda: {presence(story, device) for device in (kiosk, gateway)} == {"unknown"},
    )
    assert site.site()["cut_is_expected"]
    assert site.refresh().returncode == 1  # nothing changed, and somebody is told
    story.soak_seconds = 0.5
    story.publish("third", "1.2.0")

    network.heal()
    site.wait_for_link("connected")
    story.wait_for("1.2.0")
    assert_nothing_lost_or_doubled(story)
    wait("they are online", lambda: presence(story, kiosk) == presence(story, gateway) == "online")
    committed = [
        event["version"] for event in story.fleet.events("kiosk-1") if event["kind"] == "committed"
    ]
    assert committed == ["1.0.0", "1.1.0", "1.2.0"]


def test_a_line_that_swallows_and_a_queue_that_overflows_lose_nothing(
    story: SiteStory, network: SiteNetwork
) -> None:
    site = story.site_fleet
    config = site.kit / "mosquitto.conf"
    lines = [
        "max_queued_messages 3" if line.startswith("max_queued_messages") else line
        for line in config.read_text().splitlines()
    ]
    config.write_text("\n".join(lines) + "\n")
    site.broker.stop()
    site.broker.start()
    site.wait_for_link("connected")
    network.swallow()
    # The centre's broker dies before it notices: nobody is left to say that the bridge is gone.
    os.kill(int((site.data / "broker" / "mosquitto.pid").read_text()), signal.SIGKILL)
    site.wait_for_link("unconfirmed")
    for round_ in range(4):
        for device in story.devices.values():  # births and questions, again and again
            device.process.kill()
            device.process.start()
            session = f"{device.name} says how it is, round {round_}"
            wait(session, lambda device=device: device.model().get("serving_version") == "1.0.0")
    wait("the queue is full", lambda: "being dropped" in log_of(story, "site-broker"))
    story.publish("second", "1.1.0")
    site.broker.kill()
    site.broker.start()

    network.heal()
    site.wait_for_link("connected")
    story.wait_for("1.1.0")
    assert_nothing_lost_or_doubled(story)


def test_who_is_revoked_at_the_centre_is_silent_at_the_site(story: SiteStory) -> None:
    site, fleet = story.site_fleet, story.fleet
    kiosk = story.devices["kiosk-1"]
    site.refresh().check_returncode()
    assert "kiosk-1" not in (site.kit / "acl").read_text()

    fleet.command("device", "revoke", "kiosk-1", "--reason", "stolen", *site.as_operator)
    until(
        "the site knows",
        lambda: site.refresh().returncode == 0 and _is_named(site.kit / "acl", "kiosk-1"),
        LINK_SECONDS_MAX,
    )
    wait("its open connection is silent", lambda: "Not authorized" in log_of(story, "kiosk-1"))
    del story.devices["kiosk-1"]
    try:
        kiosk.process.kill()
        kiosk.process.start()
        refused = "certificate verify failed"
        wait("it does not come in", lambda: refused in log_of(story, "site-broker"))
        story.publish("second", "1.1.0")
        story.wait_for("1.1.0")
        assert kiosk.model().get("serving_version") == "1.0.0"
    finally:
        kiosk.process.stop()


def log_of(story: SiteStory, name: str) -> str:
    return (story.site_fleet.directory / "logs" / f"{name}.log").read_text()


def _is_named(rules: Path, name: str) -> bool:
    return f"user {name}\n" in rules.read_text()

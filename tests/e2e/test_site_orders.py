"""A site that is cut off from the centre rolls its devices back by itself, with its own key."""

import json
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mailboat_controller.demo.fleet import Device, until
from mailboat_controller.demo.models import MODEL_NAME
from mailboat_controller.demo.processes import program
from site_fleet import BROKER_PORT, SITE, SiteStory, running_site
from site_network import SiteNetwork

PATIENCE_SECONDS = 180

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture
def story(network: SiteNetwork, tmp_path: Path) -> Iterator[SiteStory]:
    with running_site(tmp_path / "fleet", network) as story:
        story.site_fleet.wait_for_link("connected")
        for name, version in (("start", "1.0.0"), ("second", "1.1.0")):
            story.publish(name, version)
            story.wait_for(version)
            story.wait_until_completed(f"vad-{name}")
        yield story


class Desk:
    """Whoever is on duty at the site: its key, its kit, and no way to the centre."""

    def __init__(self, story: SiteStory) -> None:
        self._site = story.site_fleet
        self.directory = story.site_fleet.directory
        self.key, self.order = self.directory / "harbour.pem", self.directory / "harbour.order"

    def run(self, *arguments: str) -> str:
        done = subprocess.run(
            self._site.network.at_site(program("mailboat"), *arguments),
            capture_output=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()[-2000:]
        return done.stdout.decode()

    def make(self, *arguments: str) -> None:
        self.run("site", *arguments, "--key", str(self.key), "--out", str(self.order))

    def hands_to(self, device: Device) -> bool:
        """By hand, as with a USB stick; whether the device takes it."""
        config = device.directory / "agent.toml"
        done = subprocess.run(
            [program("mailboat-agent"), "site-order", str(self.order), "--config", str(config)],
            capture_output=True,
            timeout=120,
            check=False,
        )
        return done.returncode == 0

    def orders(self, *arguments: str) -> None:
        self.make(*arguments)
        broker = f"localhost:{BROKER_PORT}"
        self.run(
            "site", "publish", str(self.order), "--broker", broker, "--kit", str(self._site.kit)
        )


def named_in_a_policy(story: SiteStory, desk: Desk) -> None:
    """While the line is up, by those who sign policies."""
    fleet = story.site_fleet
    desk.run("trust", "make-key", str(desk.key), "--name", "harbour master", "--unencrypted")
    public: dict[str, Any] = json.loads(Path(f"{desk.key}.pub").read_text())
    expires = (datetime.now(UTC) + timedelta(days=9)).replace(microsecond=0)
    path = fleet.directory / "island.yaml"
    path.write_text(
        json.dumps(
            {
                "apiVersion": "mailboat/v1",
                "kind": "Policy",
                "metadata": {
                    "name": "island",
                    "version": "1.0.0",
                    "level": "site",
                    "target": SITE,
                },
                "spec": {"site_keys": [{"key": public, "expires": expires.isoformat()}]},
            }
        )
    )
    policy_key = str(fleet.trust / "fleet" / "policy.pem")
    fleet.command(
        *("policy", "approve", str(path), "--key", policy_key, "--yes"),
        *("--reason", "the harbour acts alone when it must", *fleet.as_approver()),
    )


def test_a_site_that_is_cut_off_goes_back_by_itself_and_the_centre_hears_of_it(
    story: SiteStory, network: SiteNetwork
) -> None:
    site, desk = story.site_fleet, Desk(story)
    named_in_a_policy(story, desk)
    desk.make("lift", SITE, "--fleet", "demo")  # orders nothing: to see whether it is understood
    for device in story.devices.values():
        until("it knows the key", lambda device=device: desk.hands_to(device), PATIENCE_SECONDS)
    network.cut()
    site.wait_for_link("cut")

    desk.orders("rollback", SITE, f"{MODEL_NAME}@1.0.0", "--reason", "1.1.0 is deaf here")
    story.wait_for("1.0.0")
    kiosk = story.devices["kiosk-1"]
    kiosk.process.kill()
    kiosk.process.start()
    story.wait_for("1.0.0")
    assert site.site()["link"] == "cut"
    assert "deaf" not in site.site()["ordered"]

    network.heal()
    site.wait_for_link("connected")
    until("the centre hears", lambda: "1.1.0 is deaf here" in site.site()["ordered"], 240)
    entries = [each for each in site.get("/v1/audit", limit=500) if each["action"] == "site.order"]
    assert {each["actor"] for each in entries} == {f"site:{SITE}"}
    assert [each["details"]["code"] for each in entries] == ["lifted", "ordered"]
    explained = site.get("/v1/devices/kiosk-1/explain")
    assert "harbour master" in json.dumps(explained)

    desk.orders("lift", SITE)
    story.wait_for("1.1.0")

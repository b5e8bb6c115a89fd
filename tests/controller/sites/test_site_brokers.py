"""A site's two brokers, as real mosquittos: what a taken site may say at the centre, and who may
say what at the site."""

import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from paho.mqtt.client import topic_matches_sub

from broker_site import REFUSED, Peer, Site, connected, running_broker
from mailboat_controller.broker.embedded import fill_in, template_directory
from mailboat_controller.mqtt.retaining import retain
from mailboat_controller.pki.issuing import TlsFiles
from mailboat_controller.sites.access_rules import access_rules
from mailboat_controller.sites.bridge_news import SUBSCRIPTION, is_about_a_bridge
from mailboat_schemas.enrolment import Kind
from mailboat_schemas.errors import ConfigurationInvalid, NotPermitted, ServerUnavailable
from mailboat_schemas.topics import SAID_BY_DEVICES

STATE = "$SYS/broker/connection/{}/state"
OWN = "mb/1/demo/site/harbour/dev/dev-1"
ORDER = "mb/1/demo/site/harbour/dn/order"
ORDER_TEMPLATE = "mb/1/${FLEET}/site/${SITE}/dn/order"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running_broker(tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture
def bridge(site: Site) -> Iterator[Peer]:
    with connected(site, Kind.SITE, "harbour") as peer:
        yield peer


@pytest.fixture
def controller(site: Site) -> Iterator[Peer]:
    with connected(site, Kind.CONTROLLER, "controller") as peer:
        yield peer


def test_a_bridge_speaks_for_its_own_site_and_says_how_it_stands(
    controller: Peer, bridge: Peer
) -> None:
    controller.subscribe("mb/1/demo/site/+/dev/+/up/#")
    controller.subscribe(SUBSCRIPTION)

    assert bridge.publish(f"{OWN}/up/events") < REFUSED
    assert bridge.publish(STATE.format("harbour"), b"1", retain=True) < REFUSED
    assert controller.hears(STATE.format("harbour"))
    assert controller.hears(f"{OWN}/up/events")
    assert is_about_a_bridge(STATE.format("harbour"))


@pytest.mark.parametrize(
    "topic",
    [
        "mb/1/demo/site/quarry/dev/dev-1/up/events",
        "mb/1/demo/site/-/dev/dev-1/up/events",
        f"{OWN}/dn/ack",
        f"{OWN}/up/surplus",  # what nobody hears would be retained for ever
        f"{OWN}/up/events/more",
        "mb/1/demo/site/harbour/surplus",
        "mb/1/demo/class/kiosk/manifest",
        "mb/1/demo/class/kiosk/fresh",
        "mb/1/demo/ci/build/submit",
        "mb/1/demo/stats/fleet/demo",
        STATE.format("quarry"),
        "$SYS/broker/uptime",
    ],
)
def test_a_taken_site_cannot_speak_for_anybody_else(bridge: Peer, topic: str) -> None:
    assert bridge.publish(topic, b"1", retain=True) == REFUSED


def test_a_taken_site_hears_its_own_devices_and_manifests_alone(
    controller: Peer, bridge: Peer
) -> None:
    bridge.subscribe("#")
    for topic in (
        "mb/1/demo/site/-/dev/dev-1/dn/ack",
        "mb/1/demo/site/quarry/dev/dev-7/dn/ack",
        "mb/1/demo/ci/build/reply/1",
        f"{OWN}/dn/ack",
        "mb/1/demo/class/camera/manifest",
    ):
        assert controller.publish(topic, b"mail") < REFUSED

    assert bridge.hears("mb/1/demo/class/camera/manifest")
    heard = {topic for topic, _ in bridge.heard if not topic.startswith("$SYS")}
    assert heard <= {f"{OWN}/dn/ack", f"{OWN}/up/events", "mb/1/demo/class/camera/manifest"}


class TestAtTheSite:
    """The broker of the site, with the rules that it fetches."""

    @pytest.fixture
    def here(self, tmp_path: Path) -> Iterator[Site]:
        site = Site(tmp_path)
        (site.directory / "broker" / "acl").write_text(access_rules("demo", "harbour", ["dev-9"]))
        site.broker.start()
        yield site
        site.broker.stop()

    def test_a_device_speaks_for_itself_at_this_site(self, here: Site) -> None:
        with connected(here, Kind.DEVICE, "dev-1") as device:
            codes = {
                topic: device.publish(topic) < REFUSED
                for topic in (
                    f"{OWN}/up/events",
                    f"{OWN}/st",
                    "mb/1/demo/site/harbour/dev/dev-2/up/events",
                    "mb/1/demo/site/quarry/dev/dev-1/up/events",
                    f"{OWN}/dn/ack",
                    f"{OWN}/up/surplus",
                    "mb/1/demo/class/kiosk/manifest",
                )
            }

        assert list(codes.values()) == [True, True, *5 * [False]]

    def test_whoever_is_cut_off_says_nothing_on_an_open_connection(self, here: Site) -> None:
        with connected(here, Kind.DEVICE, "dev-9") as device:
            code = device.publish("mb/1/demo/site/harbour/dev/dev-9/up/events")

        assert code == REFUSED

    def test_the_sites_certificate_hands_in_its_order_and_its_devices_hear_it(
        self, here: Site
    ) -> None:
        files = here.files(Kind.SITE, "harbour")

        def hand_in(topic: str, files: TlsFiles = files) -> None:
            retain(
                topic,
                b"an order",
                host=here.broker.host,
                port=here.broker.port,
                ca=files.ca,
                certificate=files.certificate,
                key=files.key,
            )

        hand_in(ORDER)
        with connected(here, Kind.DEVICE, "dev-1") as device:
            device.subscribe(ORDER)
            assert device.hears(ORDER)
            assert device.publish(ORDER, b"another", retain=True) == REFUSED
        for topic in (ORDER.replace("harbour", "quarry"), f"{OWN}/dn/desired"):
            with pytest.raises(NotPermitted):
                hand_in(topic)
        with pytest.raises(NotPermitted):
            hand_in(ORDER, here.files(Kind.DEVICE, "dev-2"))

    def test_who_cannot_hand_in_an_order_is_told_why(self, here: Site, tmp_path: Path) -> None:
        files, other = here.files(Kind.SITE, "harbour"), Site(tmp_path / "other")
        stranger = replace(other.files(Kind.SITE, "harbour"), ca=files.ca)
        with socket.create_server(("127.0.0.1", 0)) as nobody:
            unused = int(nobody.getsockname()[1])

        def hand_in(kit: TlsFiles, port: int = here.broker.port) -> None:
            retain(
                ORDER,
                b"an order",
                host=here.broker.host,
                port=port,
                ca=kit.ca,
                certificate=kit.certificate,
                key=kit.key,
            )

        for kit, port, problem in (
            (files, unused, "refused"),
            (replace(files, ca=other.authority.ca_path), here.broker.port, "certificate"),
            (stranger, here.broker.port, "ended the connection"),
        ):
            with pytest.raises(ServerUnavailable, match=problem):
                hand_in(kit, port)
        with pytest.raises(ConfigurationInvalid):
            hand_in(replace(files, key=tmp_path / "missing.key"))


def test_a_sites_order_goes_neither_to_the_centre_nor_to_another_site(
    controller: Peer, bridge: Peer
) -> None:
    conf = (template_directory() / "site.conf").read_text()
    bridged = [line.split()[1] for line in conf.splitlines() if line.startswith("topic ")]

    assert not any(topic_matches_sub(topic, ORDER_TEMPLATE) for topic in bridged)
    assert bridge.publish(ORDER, b"an order", retain=True) == REFUSED


def test_what_the_centres_rules_let_devices_write_are_the_topics_that_there_are() -> None:
    """The part that `mailboat serve` fills in is written by hand."""
    lines = (template_directory() / "acl").read_text().splitlines()
    written = {line.partition("/dev/%u/")[2] for line in lines if line.startswith("pattern write")}

    assert written - {""} == set(SAID_BY_DEVICES)


def test_the_units_of_a_kit_hold_no_placeholder_and_refresh_is_a_shell_script(
    tmp_path: Path,
) -> None:
    values = {
        "RENEW_WITHIN_SECONDS": "60",
        "RENEW_WITHIN_DAYS": "1",
        "SITE": "harbour",
        "RUN_AS": "mosquitto",
        "INSTALL_DIR": "/etc/mailboat-site",
        "DATA_DIR": "/var/lib/mailboat-site/",
        "API_URL": "https://centre.example:8443",
    }
    for path in template_directory().with_name("site").iterdir():
        if path.suffix in (".service", ".timer"):
            assert "${" not in fill_in(path.read_text(), values)
    script = fill_in((template_directory().with_name("site") / "refresh").read_text(), values)
    (tmp_path / "refresh").write_text(script)

    assert os.system(f"sh -n {tmp_path}/refresh") == 0  # noqa: S605

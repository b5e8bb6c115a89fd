"""A real mosquitto with our configuration: who may connect, say and hear what."""

import os
import signal
import socket
import ssl
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker_site import NOW, REFUSED, WAIT_SECONDS, Peer, Site, connected, running_broker, speak_to
from mailboat_controller.broker import embedded as broker
from mailboat_controller.broker.embedded import BrokerDied, MosquittoBroker, find_mosquitto
from mailboat_controller.pki.issuing import Authority, TlsFiles
from mailboat_schemas.enrolment import Kind
from mailboat_schemas.errors import ConfigurationInvalid, OperatorNeeded

UP = "mb/1/demo/site/-/dev/dev-1/up/events"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running_broker(tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture
def lone(tmp_path: Path) -> Iterator[Site]:
    """A broker of the test's own, not started; it ends with the test whatever happens."""
    site = Site(tmp_path)
    yield site
    site.broker.stop()


@pytest.fixture
def controller(site: Site) -> Iterator[Peer]:
    with connected(site, Kind.CONTROLLER, "controller") as peer:
        yield peer


@pytest.fixture
def device(site: Site) -> Iterator[Peer]:
    with connected(site, Kind.DEVICE, "dev-1") as peer:
        yield peer


@pytest.fixture
def pipeline(site: Site) -> Iterator[Peer]:
    with connected(site, Kind.CI, "build") as peer:
        yield peer


def test_it_is_told_no_passphrase_and_no_pin_of_ours(
    lone: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAILBOAT_HSM_PIN", "135792468")
    lone.broker.start()
    pid = (lone.broker.config_path.parent / "mosquitto.pid").read_text()

    environment = Path(f"/proc/{pid}/environ").read_bytes()
    assert b"PATH=" in environment
    assert b"135792468" not in environment


class TestWhoMayConnect:
    def test_nobody_without_a_certificate(self, site: Site) -> None:
        context = ssl.create_default_context(cafile=str(site.authority.ca_path))

        with pytest.raises((ssl.SSLError, ConnectionError)):
            speak_to(site, context)

    def test_nobody_with_a_certificate_of_another_ca(self, site: Site, tmp_path: Path) -> None:
        files = Authority.create(tmp_path / "pki", "demo", now=NOW).controller_files(now=NOW)
        context = ssl.create_default_context(cafile=str(site.authority.ca_path))
        context.load_cert_chain(files.certificate, files.key)

        with pytest.raises((ssl.SSLError, ConnectionError)):
            speak_to(site, context)

    def test_somebody_with_one_of_ours(self, site: Site) -> None:
        files = site.files(Kind.DEVICE, "dev-4")
        context = ssl.create_default_context(cafile=str(site.authority.ca_path))
        context.load_cert_chain(files.certificate, files.key)

        speak_to(site, context)

    def test_nobody_under_another_client_id_than_the_certificates_name(
        self, site: Site, device: Peer
    ) -> None:
        device.subscribe("mb/1/demo/class/kiosk/manifest")
        thief = Peer(site, Kind.DEVICE, "dev-2", client_id="dev-1")
        boss = Peer(site, Kind.CONTROLLER, "controller")
        boss.publish("mb/1/demo/class/kiosk/manifest", b"new")

        # The victim kept its connection and its session; the thief got one of its own.
        assert device.hears("mb/1/demo/class/kiosk/manifest")
        assert device.connections == 1
        assert thief.session_present is False
        thief.close()
        boss.close()


class TestADevice:
    def test_may_speak_for_itself(self, controller: Peer, device: Peer) -> None:
        controller.subscribe("mb/1/demo/site/+/dev/+/up/#")

        assert device.publish(UP, b"event") < 0x80
        assert device.publish("mb/1/demo/site/-/dev/dev-1/st", b"birth") < 0x80
        assert controller.hears(UP)

    @pytest.mark.parametrize(
        "topic",
        [
            "mb/1/demo/site/-/dev/dev-2/up/events",
            "mb/1/demo/site/-/dev/dev-2/st",
            "mb/1/demo/site/-/dev/dev-1/dn/ack",
            "mb/1/demo/class/kiosk/manifest",
            "mb/1/demo/class/kiosk/fresh",
            "mb/1/demo/ci/build/submit",
            "mb/1/demo/ci/build/reply/1",
            "mb/1/demo/stats/fleet/demo",
            "mb/1/other/site/-/dev/dev-1/up/events",
            "$SYS/broker/uptime",
            "$CONTROL/dynamic-security/v1",
            "anything",
        ],
    )
    def test_may_not_speak_for_others(self, device: Peer, topic: str) -> None:
        assert device.publish(topic) == REFUSED

    def test_hears_its_class_and_itself_and_nothing_else(
        self, controller: Peer, device: Peer, pipeline: Peer
    ) -> None:
        device.subscribe("#")  # granted by mosquitto, and filtered at delivery
        for topic in (
            "mb/1/demo/class/camera/fresh",
            "mb/1/demo/site/-/dev/dev-2/dn/ack",
            "mb/1/demo/ci/build/reply/1",
            "mb/1/demo/stats/fleet/demo",
            "mb/1/demo/site/-/dev/dev-1/dn/ack",
            "mb/1/demo/class/camera/manifest",
        ):
            assert controller.publish(topic, b"for you") < 0x80
        assert pipeline.publish("mb/1/demo/ci/build/submit", b"secret") < 0x80
        assert controller.publish("mb/1/demo/class/kiosk/fresh", b"end") < 0x80

        assert device.hears("mb/1/demo/class/kiosk/fresh")
        heard = {topic for topic, _ in device.heard if not topic.endswith("/up/events")}
        assert heard <= {
            "mb/1/demo/site/-/dev/dev-1/dn/ack",
            "mb/1/demo/class/kiosk/manifest",
            "mb/1/demo/class/kiosk/fresh",
        }
        assert "mb/1/demo/site/-/dev/dev-1/dn/ack" in heard


class TestAPipeline:
    def test_submits_and_hears_its_answer(self, controller: Peer, pipeline: Peer) -> None:
        pipeline.subscribe("mb/1/demo/ci/build/reply/+")

        assert pipeline.publish("mb/1/demo/ci/build/submit") < 0x80
        assert controller.publish("mb/1/demo/ci/build/reply/7", b"{}") < 0x80
        assert pipeline.hears("mb/1/demo/ci/build/reply/7")

    @pytest.mark.parametrize(
        "topic",
        [
            "mb/1/demo/ci/other/submit",
            "mb/1/demo/ci/build/reply/7",
            "mb/1/demo/class/kiosk/manifest",
            "mb/1/demo/site/-/dev/dev-1/up/events",
            "mb/1/demo/site/-/dev/build/up/events",
            "mb/1/demo/stats/fleet/demo",
            "$CONTROL/dynamic-security/v1",
        ],
    )
    def test_may_do_nothing_else(self, pipeline: Peer, topic: str) -> None:
        assert pipeline.publish(topic) == REFUSED


def test_a_dashboard_hears_stats_and_says_nothing(site: Site, controller: Peer) -> None:
    grafana = Peer(site, Kind.DASHBOARD, "grafana")
    grafana.subscribe("mb/1/demo/#")
    controller.publish(UP, b"private")
    controller.publish("mb/1/demo/stats/fleet/demo", b"{}")

    assert grafana.hears("mb/1/demo/stats/fleet/demo")
    assert not grafana.hears(UP, seconds=0.1)
    assert grafana.publish("mb/1/demo/stats/fleet/demo") == REFUSED
    grafana.close()


def test_more_than_a_thousand_messages_wait_for_a_device_that_is_away(
    site: Site, controller: Peer
) -> None:
    topic = "mb/1/demo/site/-/dev/dev-3/dn/desired"
    away = Peer(site, Kind.DEVICE, "dev-3")
    away.subscribe(topic)
    away.close()
    for _ in range(1100):
        controller._client.publish(topic, b"x", qos=1)
    assert controller.publish(topic, b"last") < 0x80

    back = Peer(site, Kind.DEVICE, "dev-3")
    deadline = time.monotonic() + WAIT_SECONDS
    while len(back.heard) < 1101 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(back.heard) == 1101
    back.close()


class TestTheChild:
    def test_is_reported_when_it_dies_and_starts_again(self, lone: Site) -> None:
        lone.broker.start()
        assert lone.broker.problem() is None
        assert lone.broker.pid is not None
        os.kill(lone.broker.pid, signal.SIGKILL)
        deadline = time.monotonic() + WAIT_SECONDS
        while lone.broker.problem() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert "status -9" in str(lone.broker.problem())

        lone.broker.start()
        assert lone.broker.problem() is None
        lone.broker.stop()
        lone.broker.stop()

    def test_of_a_killed_controller_is_ended_by_the_next_one(self, lone: Site) -> None:
        first = lone.broker
        first.start()
        second = MosquittoBroker(
            first._directory, fleet="demo", files=first._files, port=first.port
        )
        try:
            second.start()

            assert first.problem() is not None
            assert second.problem() is None
        finally:
            second.stop()

    def test_does_not_mistake_another_program_on_its_port_for_itself(self, lone: Site) -> None:
        with (
            socket.create_server((lone.broker.host, lone.broker.port)),
            pytest.raises(BrokerDied, match="mqtt_port"),
        ):
            lone.broker.start()

        assert lone.broker.pid is None

    def test_that_does_not_come_up_is_explained_with_its_log(self, lone: Site) -> None:
        nothing = lone.directory / "nothing.pem"
        files = TlsFiles(ca=nothing, certificate=nothing, key=nothing)
        broken = MosquittoBroker(lone.directory / "broker", fleet="demo", files=files, port=0)

        with pytest.raises(BrokerDied, match=r"status \d+(.|\n)*Error(.|\n)*nothing\.pem"):
            broken.start()

    def test_that_listens_and_then_dies_was_never_up(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # mosquitto opens its port before it reads its certificates; this one makes sure of it.
        program = tmp_path / "mosquitto"
        program.write_text(
            f"#!{sys.executable}\nimport re, socket, sys, time\n"
            "port = int(re.search(r'^listener (\\d+)', open(sys.argv[2]).read(), re.M)[1])\n"
            "listener = socket.create_server(('127.0.0.1', port))\n"
            "time.sleep(0.3)\n"
            "sys.exit(3)\n"
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

        with pytest.raises(BrokerDied, match="status 3"):
            Site(tmp_path).broker.start()

    def test_keeps_retained_messages_over_an_orderly_restart(self, lone: Site) -> None:
        lone.broker.start()
        boss = Peer(lone, Kind.CONTROLLER, "controller")
        boss.publish("mb/1/demo/class/kiosk/manifest", b"kept", retain=True)
        boss.close()
        lone.broker.stop()
        lone.broker.start()
        device = Peer(lone, Kind.DEVICE, "dev-1")
        device.subscribe("mb/1/demo/class/+/manifest")

        assert device.hears("mb/1/demo/class/kiosk/manifest")
        device.close()
        lone.broker.stop()


def test_a_missing_mosquitto_names_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(broker, "SEARCHED_BESIDE_PATH", ("/nonexistent",))

    with pytest.raises(OperatorNeeded, match=r"apt install mosquitto.*embedded_broker = false"):
        find_mosquitto()


def test_mosquitto_is_found_beside_the_path_of_ordinary_users(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    program = tmp_path / "mosquitto"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setattr(broker, "SEARCHED_BESIDE_PATH", ("/nonexistent", str(tmp_path)))

    assert find_mosquitto() == program


@pytest.mark.parametrize("values", [{}, {"FLEET": "a\nuser root"}])
def test_a_placeholder_is_never_left_open_or_filled_with_another_line(
    values: dict[str, str],
) -> None:
    with pytest.raises(ConfigurationInvalid):
        broker.fill_in("topic read mb/1/${FLEET}/# $SYS/#", values)


def test_the_topics_of_the_brokers_own_statistics_are_no_placeholders() -> None:
    assert broker.fill_in("topic read $SYS/# ${A}", {"A": "b"}) == "topic read $SYS/# b"

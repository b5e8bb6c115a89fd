"""Whoever has a certificate of the fleet and would like to be somebody else, at a real mosquitto.

The broker answers a publication that is not allowed with "not authorised", and delivers nothing
that is not the reader's; who is cut off loses an open session.
"""

import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from broker_site import NOW, REFUSED, Peer, Site, connected, running_broker, speak_to
from enrolled_fleet import migrated_database
from mailboat_controller.broker.guard import BrokerGuard
from mailboat_controller.pki.certificates import public_key_of_request
from mailboat_controller.pki.issuing import Authority
from mailboat_controller.store import audit, device_certificates, devices
from mailboat_controller.store.engine import Store
from mailboat_schemas.enrolment import Kind
from running_api import certificate_request, write_key

DEV = "mb/1/demo/site/-/dev"
MANIFEST = "mb/1/demo/class/kiosk/manifest"
END = "mb/1/demo/class/kiosk/fresh"  # said last, so that what was not heard before it was withheld


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running_broker(tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture
def controller(site: Site) -> Iterator[Peer]:
    with connected(site, Kind.CONTROLLER, "controller") as peer:
        yield peer


@pytest.fixture
def device(site: Site) -> Iterator[Peer]:
    with connected(site, Kind.DEVICE, "dev-1") as peer:
        yield peer


def heard_before_the_end(device: Peer, controller: Peer) -> set[str]:
    assert controller.publish(END, b"end") < REFUSED
    assert device.hears(END)
    return {topic for topic, _ in device.heard} - {END}


# --- connecting ----------------------------------------------------------------------------------


def test_anonymously_at_the_broker(site: Site) -> None:
    context = ssl.create_default_context(cafile=str(site.authority.ca_path))
    with pytest.raises((ssl.SSLError, ConnectionError)):
        speak_to(site, context)


def test_a_certificate_of_another_authority_at_the_broker(site: Site, tmp_path: Path) -> None:
    files = Authority.create(tmp_path / "pki", "demo", now=NOW).controller_files(now=NOW)
    context = ssl.create_default_context(cafile=str(site.authority.ca_path))
    context.load_cert_chain(files.certificate, files.key)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        speak_to(site, context)


def test_an_expired_certificate_at_the_broker(site: Site, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    issued = site.authority.issue_device(
        certificate_request(key),
        device="dev-1",
        enrolment_number=1,
        now=NOW - timedelta(days=400),
        days=1,
    )
    (tmp_path / "old.pem").write_bytes(issued.certificate)
    context = ssl.create_default_context(cafile=str(site.authority.ca_path))
    context.load_cert_chain(tmp_path / "old.pem", write_key(key, tmp_path / "old.key"))
    with pytest.raises((ssl.SSLError, ConnectionError)):
        speak_to(site, context)


def test_a_session_taken_over_under_another_devices_client_id(
    site: Site, device: Peer, controller: Peer
) -> None:
    device.subscribe(MANIFEST)
    thief = Peer(site, Kind.DEVICE, "dev-2", client_id="dev-1")
    assert controller.publish(MANIFEST, b"new") < REFUSED
    assert device.hears(MANIFEST)
    assert device.connections == 1
    assert thief.session_present is False
    thief.close()


# --- speaking ------------------------------------------------------------------------------------


@pytest.mark.parametrize("leaf", ["up/events", "up/report", "up/hello", "up/telemetry", "st"])
def test_another_devices_topics(device: Peer, leaf: str) -> None:
    assert device.publish(f"{DEV}/dev-2/{leaf}") == REFUSED


def test_a_device_acknowledges_its_own_events(device: Peer) -> None:
    assert device.publish(f"{DEV}/dev-1/dn/ack") == REFUSED


@pytest.mark.parametrize("topic", [MANIFEST, END, "mb/1/demo/stats/fleet/demo"])
def test_a_device_speaks_as_the_controller(device: Peer, topic: str) -> None:
    assert device.publish(topic, retain=True) == REFUSED


def test_a_device_submits_a_release(device: Peer) -> None:
    assert device.publish("mb/1/demo/ci/build/submit") == REFUSED


def test_a_device_speaks_in_another_fleet(device: Peer) -> None:
    assert device.publish("mb/1/other/site/-/dev/dev-1/up/events") == REFUSED


def test_a_device_configures_the_broker(device: Peer) -> None:
    assert device.publish("$CONTROL/dynamic-security/v1") == REFUSED


@pytest.mark.parametrize("topic", [MANIFEST, "mb/1/demo/ci/build/reply/7"])
def test_ci_publishes_what_only_the_controller_may(site: Site, topic: str) -> None:
    pipeline = Peer(site, Kind.CI, "build")
    assert pipeline.publish(topic, retain=True) == REFUSED
    pipeline.close()


def test_ci_submits_as_another_pipeline(site: Site) -> None:
    pipeline = Peer(site, Kind.CI, "build")
    assert pipeline.publish("mb/1/demo/ci/other/submit") == REFUSED
    pipeline.close()


def test_a_dashboard_says_something(site: Site) -> None:
    dashboard = Peer(site, Kind.DASHBOARD, "grafana")
    assert dashboard.publish("mb/1/demo/stats/fleet/demo") == REFUSED
    dashboard.close()


# --- listening -----------------------------------------------------------------------------------


def test_a_device_listens_to_everything(site: Site, device: Peer, controller: Peer) -> None:
    pipeline = Peer(site, Kind.CI, "build")
    device.subscribe("#")  # granted by mosquitto, and filtered at delivery
    for topic in (
        f"{DEV}/dev-2/dn/ack",
        "mb/1/demo/class/camera/manifest",
        "mb/1/demo/ci/build/reply/1",
        "mb/1/demo/stats/fleet/demo",
    ):
        assert controller.publish(topic, b"not yours") < REFUSED
    assert pipeline.publish("mb/1/demo/ci/build/submit", b"secret") < REFUSED
    assert heard_before_the_end(device, controller) <= {MANIFEST}
    pipeline.close()


def test_a_dashboard_listens_to_devices(site: Site, device: Peer, controller: Peer) -> None:
    dashboard = Peer(site, Kind.DASHBOARD, "grafana")
    dashboard.subscribe("mb/1/demo/#")
    assert device.publish(f"{DEV}/dev-1/up/events", b"private") < REFUSED
    assert controller.publish("mb/1/demo/stats/fleet/demo", b"{}") < REFUSED
    assert dashboard.hears("mb/1/demo/stats/fleet/demo")
    assert {topic for topic, _ in dashboard.heard} == {"mb/1/demo/stats/fleet/demo"}
    dashboard.close()


# --- cut off -------------------------------------------------------------------------------------


def test_a_revoked_device_with_an_open_session(tmp_path: Path) -> None:
    site = Site(tmp_path / "site")
    (tmp_path / "mailboat.db").write_bytes(migrated_database())
    store = Store(f"sqlite:///{tmp_path / 'mailboat.db'}")
    guard = BrokerGuard(store=store, authority=site.authority, directory=tmp_path / "site/broker")
    enrol(site, store, "dev-1")
    guard.write_files(NOW)
    site.broker.start()
    guard.started(site.broker)
    stolen = Peer(site, Kind.DEVICE, "dev-1")
    try:
        assert stolen.publish(f"{DEV}/dev-1/up/events") < REFUSED
        with store.transaction() as tx:
            devices.revoke(tx, "dev-1")
        guard.look(site.broker.host, site.broker.port, datetime.now(UTC))
        assert stolen.is_cut_off()
        context = ssl.create_default_context(cafile=str(site.authority.ca_path))
        files = site.files(Kind.DEVICE, "dev-1")
        context.load_cert_chain(files.certificate, files.key)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            speak_to(site, context)
        with store.read() as tx:
            assert [row.subject for row in audit.page(tx) if row.action == "broker.end_session"]
    finally:
        stolen.close()
        site.broker.stop()
        store.close()


def enrol(site: Site, store: Store, name: str) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    request = certificate_request(key)
    public_key = public_key_of_request(request)
    issued = site.authority.issue_device(request, device=name, enrolment_number=1, now=NOW, days=1)
    with store.transaction() as tx:
        devices.enrol(
            tx,
            device=name,
            hardware_class="kiosk",
            site="-",
            labels={},
            public_key=public_key,
            at=NOW,
        )
        device_certificates.record(
            tx,
            name,
            serial=issued.serial,
            public_key=public_key,
            issued_at=NOW,
            expires_at=issued.expires_at,
        )
    write_key(key, site.directory / f"{name}.key")
    (site.directory / f"{name}.pem").write_bytes(issued.certificate)

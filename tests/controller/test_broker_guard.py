"""Whom the registry lets in and cuts off, at a real broker while it runs."""

import ssl
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from broker_site import NOW, REFUSED, Peer, Site, speak_to
from enrolled_fleet import migrated_database
from mailboat_controller.broker import access_files, guard
from mailboat_controller.broker.guard import BrokerGuard, BrokerNotReloaded
from mailboat_controller.mqtt.take_over import take_over
from mailboat_controller.pki.certificates import holder_of, public_key_of_request
from mailboat_controller.store import (
    audit,
    broker_access,
    credentials,
    device_certificates,
    devices,
)
from mailboat_controller.store.broker_access import Access
from mailboat_controller.store.device_certificates import RefusedCertificate
from mailboat_controller.store.engine import Store
from mailboat_schemas.enrolment import Kind
from mailboat_schemas.errors import ServerUnavailable, Transient
from running_api import certificate_request, write_key

NOBODY = Access(devices=(), pipelines=(), dashboards=(), sites=(), cut_off=(), refused=())


@dataclass
class GuardedSite:
    """A broker, a registry, and what keeps one to the other."""

    site: Site
    store: Store
    guard: BrokerGuard

    def enrol(self, name: str, hardware_class: str = "kiosk", days: int = 1) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        request = certificate_request(key)
        public_key = public_key_of_request(request)
        issued = self.site.authority.issue_device(
            request, device=name, enrolment_number=1, now=NOW, days=days
        )
        with self.store.transaction() as tx:
            devices.enrol(
                tx,
                device=name,
                hardware_class=hardware_class,
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
        write_key(key, self.site.directory / f"{name}.key")
        (self.site.directory / f"{name}.pem").write_bytes(issued.certificate)

    def register(self, kind: Kind, name: str) -> None:
        certificate = self.site.files(kind, name).certificate.read_bytes()
        parsed = x509.load_pem_x509_certificate(certificate)
        with self.store.transaction() as tx:
            credentials.add(
                tx,
                serial=holder_of(certificate).serial,
                name=name,
                kind=kind,
                expires_at=parsed.not_valid_after_utc,
                at=NOW,
            )

    def revoke(self, name: str) -> None:
        with self.store.transaction() as tx:
            devices.revoke(tx, name)

    def look(self) -> None:
        self.guard.look(self.site.broker.host, self.site.broker.port, NOW)

    def may_connect(self, name: str) -> bool:
        context = ssl.create_default_context(cafile=str(self.site.authority.ca_path))
        context.load_cert_chain(
            self.site.directory / f"{name}.pem", self.site.directory / f"{name}.key"
        )
        try:
            speak_to(self.site, context)
        except (ssl.SSLError, ConnectionError):
            return False
        return True


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[GuardedSite]:
    site = Site(tmp_path / "site")
    (tmp_path / "mailboat.db").write_bytes(migrated_database())
    store = Store(f"sqlite:///{tmp_path / 'mailboat.db'}")
    guard = BrokerGuard(
        store=store, authority=site.authority, directory=tmp_path / "site" / "broker"
    )
    guard.write_files(NOW)
    site.broker.start()
    guard.started(site.broker)
    yield GuardedSite(site, store, guard)
    site.broker.stop()
    store.close()


def test_a_revoked_device_loses_its_open_session_and_does_not_come_back(
    guarded: GuardedSite,
) -> None:
    for name in ("dev-1", "dev-2"):
        guarded.enrol(name)
    guarded.look()
    thief = Peer(guarded.site, Kind.DEVICE, "dev-1")
    neighbour = Peer(guarded.site, Kind.DEVICE, "dev-2")

    guarded.revoke("dev-1")
    guarded.look()

    assert thief.is_cut_off()
    assert not guarded.may_connect("dev-1")
    assert thief.connections == 1, "paho tries again by itself; it must not get in"
    assert guarded.may_connect("dev-2")
    with guarded.store.read() as tx:
        entries = [row for row in audit.page(tx) if row.action == "broker.end_session"]
        assert [(row.actor, row.subject) for row in entries] == [("controller", "dev-1")]
        assert device_certificates.sessions_to_end(tx, NOW) == {}
    thief.close()
    neighbour.close()


def test_a_revoked_pipeline_likewise_and_its_successor_of_that_name_is_let_in(
    guarded: GuardedSite,
) -> None:
    guarded.register(Kind.CI, "build")
    guarded.look()
    thief = Peer(guarded.site, Kind.CI, "build")
    with guarded.store.transaction() as tx:
        credentials.revoke(tx, name="build", kind=Kind.CI)
    guarded.look()
    assert thief.is_cut_off()
    assert not guarded.may_connect("build")
    thief.close()

    for suffix in ("pem", "key"):
        (guarded.site.directory / f"build.{suffix}").unlink()
    guarded.register(Kind.CI, "build")
    guarded.look()

    successor = Peer(guarded.site, Kind.CI, "build")
    assert successor.publish("mb/1/demo/ci/build/submit") < 0x80
    successor.close()


def test_what_a_revoked_device_still_sends_on_an_open_connection_is_refused(
    guarded: GuardedSite,
) -> None:
    guarded.enrol("dev-1")
    guarded.look()
    thief = Peer(guarded.site, Kind.DEVICE, "dev-1")
    topic = "mb/1/demo/site/-/dev/dev-1/up/events"
    assert thief.publish(topic) < 0x80

    guarded.revoke("dev-1")
    guarded.guard.refresh(NOW)  # and nobody ends its session
    deadline = time.monotonic() + 60
    while (code := thief.publish(topic)) != REFUSED and time.monotonic() < deadline:
        time.sleep(0.05)

    assert code == REFUSED
    thief.close()


def test_a_device_hears_its_class_from_the_moment_that_refresh_returns(
    guarded: GuardedSite,
) -> None:
    boss = Peer(guarded.site, Kind.CONTROLLER, "controller")
    boss.publish("mb/1/demo/class/kiosk/manifest", b"held", retain=True)
    guarded.enrol("dev-1")
    guarded.guard.refresh(NOW)

    device = Peer(guarded.site, Kind.DEVICE, "dev-1")
    device.subscribe("mb/1/demo/class/kiosk/manifest")
    assert device.hears("mb/1/demo/class/kiosk/manifest")
    device.close()
    boss.close()


def test_callers_that_wait_together_are_served_by_few_reloads(
    guarded: GuardedSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    reloads, together = [], threading.Barrier(20)
    monkeypatch.setattr(guarded.site.broker, "reload", lambda: reloads.append(time.sleep(0.05)))

    def enrol(number: int) -> None:
        guarded.enrol(f"dev-{number}")
        together.wait(60)
        guarded.guard.refresh(NOW)
        with guarded.store.read() as tx:
            rules = access_files.access_rules(broker_access.read(tx, NOW), "demo")
        assert f"user dev-{number}\n" in rules

    threads = [threading.Thread(target=enrol, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    rules = (guarded.site.directory / "broker" / "acl").read_text()
    assert all(f"user dev-{number}\n" in rules for number in range(20))
    assert 1 <= len(reloads) < 20


def test_a_device_revoked_while_the_broker_is_down_is_cut_off_when_it_is_back(
    guarded: GuardedSite,
) -> None:
    guarded.enrol("dev-1")
    guarded.look()
    guarded.site.broker.stop()
    guarded.revoke("dev-1")
    guarded.look()
    with guarded.store.read() as tx:
        assert set(device_certificates.sessions_to_end(tx, NOW)) == {"dev-1"}

    guarded.site.broker.start()
    guarded.look()

    assert not guarded.may_connect("dev-1")
    with guarded.store.read() as tx:
        assert device_certificates.sessions_to_end(tx, NOW) == {}


def test_a_session_that_cannot_be_ended_keeps_nobody_else_in(
    guarded: GuardedSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("dev-a", "dev-b"):
        guarded.enrol(name)
        guarded.revoke(name)
    guarded.guard.refresh(NOW)

    def not_for_the_first(host: str, port: int, tls: ssl.SSLContext, name: str) -> None:
        if name == "dev-a":
            raise ServerUnavailable("dev-a does not go.", next_step="nothing.")
        take_over(host, port, tls, name)

    monkeypatch.setattr(guard, "take_over", not_for_the_first)
    with pytest.raises(ServerUnavailable, match="dev-a"):
        guarded.guard.end_sessions(guarded.site.broker.host, guarded.site.broker.port, NOW)

    with guarded.store.read() as tx:
        assert set(device_certificates.sessions_to_end(tx, NOW)) == {"dev-a"}


def test_a_certificate_that_has_ended_does_not_connect(guarded: GuardedSite) -> None:
    guarded.enrol("dev-1", days=0)  # over since its first moment, but for the backdating

    assert not guarded.may_connect("dev-1")


class TestAnOperatorsBroker:
    def guard(self, guarded: GuardedSite, directory: Path, *command: str) -> BrokerGuard:
        return BrokerGuard(
            store=guarded.store,
            authority=guarded.site.authority,
            directory=directory,
            reload_command=command,
        )

    def test_is_told_by_the_operators_command(self, guarded: GuardedSite, tmp_path: Path) -> None:
        told = tmp_path / "told"
        touch = f"import pathlib; pathlib.Path({str(told)!r}).open('a').write('x')"
        guard = self.guard(guarded, tmp_path / "access", sys.executable, "-c", touch)
        guard.refresh(NOW)
        guard.refresh(NOW)
        assert told.read_text() == "x", "once, for it has not changed since"

        guarded.enrol("dev-1")
        guard.refresh(NOW)
        assert told.read_text() == "xx"

    def test_is_told_again_after_the_command_failed(
        self, guarded: GuardedSite, tmp_path: Path
    ) -> None:
        told = tmp_path / "told"
        fails_once = (
            f"import pathlib, sys; told = pathlib.Path({str(told)!r}); first = not told.exists(); "
            "told.touch(); sys.exit('no such broker' if first else 0)"
        )
        guard = self.guard(guarded, tmp_path / "access", sys.executable, "-c", fails_once)

        with pytest.raises(BrokerNotReloaded, match="no such broker") as caught:
            guard.refresh(NOW)
        assert (caught.value.code, isinstance(caught.value, Transient)) == ("E-BROKER-RELOAD", True)
        guard.refresh(NOW)


def test_above_the_bound_the_classes_are_open_to_each_other_and_nothing_else_changes() -> None:
    few = access_files.SECTIONS_MAX
    many = tuple((f"dev-{number}", "kiosk") for number in range(few + 1))

    within = access_files.access_rules(Access(**{**vars_of(NOBODY), "devices": many[:few]}), "demo")
    above = access_files.access_rules(Access(**{**vars_of(NOBODY), "devices": many}), "demo")

    assert "pattern read mb/1/demo/class/#" not in within
    assert within.count("topic read mb/1/demo/class/kiosk/#") == few
    assert "pattern read mb/1/demo/class/#" in above
    assert "user dev-0" not in above


def test_a_site_speaks_for_its_own_devices_alone() -> None:
    rules = access_files.access_rules(Access(**{**vars_of(NOBODY), "sites": ("harbour",)}), "demo")
    section = rules.split("user harbour\n")[1]

    assert "topic write mb/1/demo/site/harbour/dev/+/up/events" in section.splitlines()
    assert not [line for line in section.splitlines() if "write" in line and line.endswith("#")]
    assert "ci/" not in section


def test_a_process_that_takes_messages_in_reads_devices_and_writes_acknowledgements_alone() -> None:
    rules = access_files.access_rules(NOBODY, "demo", 2)

    for name in ("ingest-0", "ingest-1"):
        section = rules.split(f"user {name}\n")[1].split("user ")[0].strip().splitlines()
        assert section == [
            "topic read mb/1/demo/site/+/dev/+/up/#",
            "topic read mb/1/demo/site/+/dev/+/st",
            "topic write mb/1/demo/site/+/dev/+/dn/ack",
        ]
    assert "ingest-" not in access_files.access_rules(NOBODY, "demo")


def test_the_broker_is_told_of_superseded_certificates_every_few_hours_and_of_revoked_ones_at_once(
    guarded: GuardedSite, tmp_path: Path
) -> None:
    def certificate(number: int, *, revoked: bool) -> RefusedCertificate:
        ends = NOW + timedelta(days=30)
        return RefusedCertificate(serial=f"a{number}", name="x", expires_at=ends, revoked=revoked)

    def listed(*refused: RefusedCertificate, hours: float = 0) -> set[int]:
        access_files.write(
            tmp_path,
            Access(**{**vars_of(NOBODY), "refused": refused}),
            fleet="demo",
            authority=guarded.site.authority,
            now=NOW + timedelta(hours=hours),
        )
        held = x509.load_pem_x509_crl((tmp_path / "crl.pem").read_bytes())
        assert held.is_signature_valid(
            x509.load_pem_x509_certificate(guarded.site.authority.ca_pem).public_key()  # type: ignore[arg-type]
        )
        return {each.serial_number for each in held}

    old, stolen = certificate(1, revoked=False), certificate(2, revoked=True)
    assert listed() == set()
    assert listed(old) == set()
    assert listed(old, stolen) == {0xA1, 0xA2}
    assert listed(old, stolen, certificate(3, revoked=False), hours=1) == {0xA1, 0xA2}
    assert listed(old, stolen, certificate(3, revoked=False), hours=7) == {0xA1, 0xA2, 0xA3}


def vars_of(access: Access) -> dict[str, object]:
    return {name: getattr(access, name) for name in Access.__dataclass_fields__}

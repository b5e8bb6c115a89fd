"""A device renews its certificate at a real controller, over real TLS, on a real disk."""

import asyncio
import os
import random
import ssl
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from mailboat_agent.artifacts.download import HttpsSource
from mailboat_agent.atomic_file import DiskFailing
from mailboat_agent.identity.device_key import (
    Identity,
    check_dates,
    confirmed_of,
    key_der,
    load_identity,
    make_key,
    successor_of,
    tls_context,
)
from mailboat_agent.identity.enrol import ApprovalPending, Wishes, enrol
from mailboat_agent.identity.key_exchange import IdentityFiles, exchange
from mailboat_agent.identity.registration import Registration
from mailboat_agent.identity.renewal import UNCONNECTED_SECONDS, Renewal
from mailboat_controller.store import audit, device_certificates, devices
from mailboat_schemas.enrolment import EnrolmentPending
from mailboat_schemas.errors import (
    DiskFull,
    DownloadInterrupted,
    MailboatError,
    NotPermitted,
    Transient,
)
from running_api import RunningApi, running_api
from trust_fleet import FLEET

DAY = timedelta(days=1)
Result = TypeVar("Result")


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    with running_api(tmp_path_factory.mktemp("controller")) as running:
        yield running


class Cut(Registration):
    """A network that loses the answers to some requests; the controller has done its work."""

    def __init__(self, source: HttpsSource, lost: set[str]) -> None:
        super().__init__(source)
        self._lost = lost

    async def _post(self, path: str, request: Any) -> tuple[int, bytes]:
        answer = await super()._post(path, request)
        if path.rpartition("/")[2] in self._lost:
            raise DownloadInterrupted("The answer is lost.", next_step="again.")
        return answer


@dataclass
class Device:
    """An enrolled device's directory, and its renewal; `restart` is what a power cut leaves."""

    api: RunningApi
    name: str
    directory: Path
    new_key: bool = True
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    connected: bool = True
    monotonic: float = 0.0
    lost: set[str] = field(default_factory=set)
    rewraps: list[tuple[bytes, bytes]] = field(default_factory=list)
    renewed: int = 0
    rooms: int = 0

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True)
        (self.directory / "ca.pem").write_bytes(self.api.authority.ca_pem)
        self.files = IdentityFiles(
            ca=self.directory / "ca.pem",
            key=self.directory / "device.key",
            certificate=self.directory / "device.pem",
        )
        answer = self.api.enrol(self.name, key=make_key(self.files.key))
        assert answer.status == 201, answer.content
        self.files.certificate.write_text(answer.json["certificate"])
        self.restart()

    def restart(self) -> None:
        exchange(self.files, self._rewrap)
        self.identity = load_identity(self.files.key, self.files.certificate)
        self.tls = tls_context(self.files.ca, self.files.certificate, self.files.key)
        self.renewal = Renewal(
            identity=self.identity,
            files=self.files,
            fleet=FLEET,
            new_key=self.new_key,
            tls=self.tls,
            registration=lambda tls: Cut(HttpsSource(self.api.url, tls), self.lost),
            rewrap=self._rewrap,
            make_room=self._make_room,
            renewed=self._count,
            connected=lambda: self.connected,
            now=lambda: self.clock(),  # noqa: PLW0108  a test sets it
            monotonic=lambda: self.monotonic,
            rng=random.Random(1),
        )

    def look(self) -> None:
        self.renewal._follow_clock()
        asyncio.run(self.renewal._look())

    def renew(self) -> None:
        asyncio.run(self.renewal.renew())

    def issue(self, *, begun: timedelta, days: int) -> None:
        """Give it a certificate of another time, as if it had been away since."""
        from mailboat_agent.identity.device_key import certificate_request

        request = certificate_request(self.identity.key, self.name, FLEET).decode()
        at = datetime.now(UTC) - begun
        number = self.identity.enrolment_number
        issued = self.api.authority.issue_device(
            request, device=self.name, enrolment_number=number, now=at, days=days
        )
        with self.api.store.transaction() as tx:
            device_certificates.record(
                tx,
                self.name,
                serial=issued.serial,
                public_key=key_der(self.identity.key),
                issued_at=at,
                expires_at=issued.expires_at,
            )
        self.files.certificate.write_bytes(issued.certificate)
        self.restart()

    def row(self) -> devices.DeviceRow:
        with self.api.store.read() as tx:
            return devices.get(tx, self.name)

    def proofs(self) -> list[str]:
        """How it renewed each time."""
        with self.api.store.read() as tx:
            rows = audit.page(tx, subject=self.name, limit=1000)
        return [row.details["proof"] for row in rows if row.action == "device.renew"]

    def connects(self) -> bool:
        """With the context that the whole agent shares."""

        async def ask() -> None:
            source = HttpsSource(self.api.url, self.tls)
            try:
                await Registration(source).confirm()
            finally:
                await source.close()

        try:
            asyncio.run(ask())
        except MailboatError:
            return False
        return True

    def is_whole(self) -> bool:
        """One key, one certificate, and both are those that the controller counts on."""
        left = {path.name for path in self.directory.iterdir()}
        return left == {"ca.pem", "device.key", "device.pem"} and (
            self.row().public_key == key_der(self.identity.key)
            and self.row().next_public_key is None
            and self.connects()
        )

    def _rewrap(self, old: ec.EllipticCurvePrivateKey, new: ec.EllipticCurvePrivateKey) -> None:
        self.rewraps.append((key_der(old), key_der(new)))

    def _make_room(self) -> None:
        self.rooms += 1

    def _count(self) -> None:
        self.renewed += 1


@pytest.fixture
def make(api: RunningApi, tmp_path: Path, request: pytest.FixtureRequest) -> Callable[..., Device]:
    def make(**more: Any) -> Device:
        name = "d" + str(abs(hash(request.node.name)))[:12]
        return Device(api, name, tmp_path / "identity", **more)

    return make


def test_a_renewed_certificate_has_a_new_key_and_everybody_connects_with_it(
    make: Callable[..., Device],
) -> None:
    device = make()
    old = key_der(device.identity.key)
    device.renew()

    assert key_der(device.identity.key) != old
    assert device.rewraps == [(old, key_der(device.identity.key))]
    assert device.renewed == 1
    assert device.is_whole()


def test_or_the_same_key_where_the_configuration_says_so(make: Callable[..., Device]) -> None:
    device = make(new_key=False)
    old, certificate = key_der(device.identity.key), device.files.certificate.read_bytes()
    device.renew()

    assert key_der(device.identity.key) == old
    assert device.files.certificate.read_bytes() != certificate
    assert (device.renewed, device.rewraps) == (1, [])
    assert device.is_whole()


class TestWhen:
    def test_at_two_thirds_of_its_life_with_jitter(self, make: Callable[..., Device]) -> None:
        device = make()
        begun, life = device.identity.issued_at, timedelta(days=30)
        device.clock = lambda: begun + life * 0.66
        assert not device.renewal.due()
        device.clock = lambda: begun + life * 0.77
        assert device.renewal.due()

        shares = {device.renewal._draw_share() for _ in range(100)}
        assert len(shares) == 100
        assert 2 / 3 <= min(shares) < max(shares) < 0.77

    @pytest.mark.parametrize("year", [1970, 2100])
    def test_a_clock_that_disagrees_with_the_certificate_renews_at_once_and_then_by_elapsed_time(
        self, make: Callable[..., Device], year: int
    ) -> None:
        device = make(clock=lambda: datetime(year, 1, 1, tzinfo=UTC))
        device.look()
        assert device.renewed == 1
        assert device.is_whole()

        device.monotonic += timedelta(days=19).total_seconds()
        device.look()
        assert device.renewed == 1
        device.monotonic += timedelta(days=5).total_seconds()
        device.look()
        assert device.renewed == 2

    def test_dates_are_checked_again_when_the_clock_is_right_again(
        self, make: Callable[..., Device]
    ) -> None:
        device = make(clock=lambda: datetime(1970, 1, 1, tzinfo=UTC))
        device.look()
        unchecked = device.tls.verify_flags
        device.clock = lambda: datetime.now(UTC)
        device.look()

        assert device.tls.verify_flags != unchecked
        assert device.tls.verify_flags == tls_context(device.files.ca).verify_flags

    def test_a_broker_that_does_not_take_the_certificate_makes_it_ask(
        self, make: Callable[..., Device]
    ) -> None:
        """Its clock is slow: it holds a certificate for good that has ended."""
        device = make()
        device.issue(begun=40 * DAY, days=30)
        device.clock = lambda: datetime.now(UTC) - 30 * DAY
        device.look()
        assert device.renewed == 0

        device.connected = False
        device.monotonic += UNCONNECTED_SECONDS + 1
        device.look()
        assert device.renewed == 1
        assert device.proofs() == ["key"]

    def test_a_broker_that_is_away_does_not(self, make: Callable[..., Device]) -> None:
        device = make(connected=False)
        device.monotonic += UNCONNECTED_SECONDS + 1
        device.look()

        assert device.renewed == 0


class TestAfterItsEnd:
    @pytest.mark.parametrize("new_key", [True, False])
    def test_it_comes_back_by_itself_with_proof_of_its_key(
        self, make: Callable[..., Device], new_key: bool
    ) -> None:
        device = make(new_key=new_key)
        device.issue(begun=100 * DAY, days=30)
        assert not device.connects()
        device.look()

        assert device.proofs() == ["key"]
        assert device.is_whole()

    def test_but_not_when_it_is_revoked(self, make: Callable[..., Device]) -> None:
        device = make()
        device.issue(begun=100 * DAY, days=30)
        with device.api.store.transaction() as tx:
            devices.revoke(tx, device.name)

        with pytest.raises(NotPermitted, match="E-REVOKED"):
            device.look()
        assert device.renewed == 0


class TestALostAnswer:
    def test_to_the_renewal(self, make: Callable[..., Device]) -> None:
        device = make()
        device.lost = {"certificate", "renewals"}
        with pytest.raises(Transient):
            device.renew()
        device.restart()
        assert device.connects(), "the old key still counts"

        device.lost = set()
        device.renew()
        assert device.is_whole()

    def test_to_the_confirmation(self, make: Callable[..., Device]) -> None:
        device = make()
        device.lost = {"confirmation"}
        with pytest.raises(Transient):
            device.renew()
        assert device.row().public_key != key_der(device.identity.key), "the new key counts"

        device.lost = set()
        device.look()
        assert device.is_whole()

    def test_to_the_confirmation_and_then_a_long_absence(self, make: Callable[..., Device]) -> None:
        """The waiting certificate has ended as well; the waiting key is the one that counts."""
        device = make()
        device.lost = {"confirmation"}
        with pytest.raises(Transient):
            device.renew()
        request = device.api.authority.issue_device(
            _request(successor_of(device.files.key), device.name),
            device=device.name,
            enrolment_number=1,
            now=datetime.now(UTC) - 40 * DAY,
            days=30,
        )
        successor_of(device.files.certificate).write_bytes(request.certificate)

        device.lost = set()
        device.restart()
        device.look()
        assert device.is_whole()


class TestAPowerCut:
    """Wherever it comes, the device starts with a key that counts, and ends whole."""

    def prepared(self, make: Callable[..., Device]) -> Device:
        """Up to a confirmed certificate that waits to be taken."""
        device = make()
        device.renewal._take = lambda: None  # type: ignore[method-assign]
        device.renew()
        assert confirmed_of(device.files.certificate).exists()
        return device

    def test_before_the_confirmation(self, make: Callable[..., Device]) -> None:
        device = make()
        device.renewal._confirm = _power_cut  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            device.renew()
        device.restart()
        assert device.connects()

        device.look()
        assert device.is_whole()
        assert device.proofs() == ["certificate"], "what had been given was confirmed"

    def test_after_the_confirmation(self, make: Callable[..., Device]) -> None:
        device = self.prepared(make)
        device.restart()

        assert len(device.rewraps) == 1
        assert device.is_whole()

    @pytest.mark.parametrize("name", ["device.key.next", "device.pem.next"])
    def test_that_damages_what_waits(self, make: Callable[..., Device], name: str) -> None:
        """The old key counts until the new one is confirmed, so nothing is lost."""
        device = make()
        device.renewal._confirm = _power_cut  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            device.renew()
        (device.directory / name).write_bytes(bytes(300))
        device.restart()

        device.look()
        assert device.is_whole()

    def test_between_key_and_certificate(self, make: Callable[..., Device]) -> None:
        device = self.prepared(make)
        successor_of(device.files.key).replace(device.files.key)

        assert load_identity(device.files.key, device.files.certificate).device == device.name
        device.restart()
        assert device.is_whole()

    def test_while_what_the_old_key_opens_is_kept(self, make: Callable[..., Device]) -> None:
        device = self.prepared(make)

        def full(_old: object, _new: object) -> None:
            raise DiskFull("full", next_step="free space")

        with pytest.raises(DiskFull):
            exchange(device.files, full)
        device.restart()
        assert len(device.rewraps) == 1
        assert device.is_whole()


def test_a_full_disk_gives_up_what_is_held_back_for_it(
    make: Callable[..., Device], monkeypatch: pytest.MonkeyPatch
) -> None:
    device = make(clock=lambda: datetime(2100, 1, 1, tzinfo=UTC))

    async def full(_self: Renewal) -> None:
        raise DiskFull("full", next_step="free space")

    monkeypatch.setattr(Renewal, "renew", full)

    async def run() -> None:
        renewing = asyncio.create_task(device.renewal.run())
        async with asyncio.timeout(60):
            while not device.rooms:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        renewing.cancel()
        with suppress(asyncio.CancelledError):
            await renewing

    asyncio.run(run())
    assert device.rooms == 1


@pytest.mark.parametrize("new_key", [True, False])
def test_a_disk_that_refuses_keeps_the_old_certificate(
    make: Callable[..., Device], new_key: bool
) -> None:
    device = make(new_key=new_key)
    before = device.files.certificate.read_bytes()
    for name in ("device.pem.new", "device.pem.next.new"):
        # Where it is written first; a link is not followed. In the way it is for one attempt.
        (device.directory / name).symlink_to("elsewhere")
    with pytest.raises(DiskFailing):
        device.renew()

    assert device.files.certificate.read_bytes() == before
    for name in ("device.pem.new", "device.pem.next.new"):
        (device.directory / name).unlink(missing_ok=True)
    device.restart()
    assert device.connects()
    device.renew()
    assert device.is_whole()


@pytest.mark.parametrize("new_key", [True, False])
@pytest.mark.parametrize(
    ("number", "before"),
    [(1, b""), (0, "ä".encode() * 9000), (0, b"-----BEGIN CERTIFICATE-----\nAAAA\n")],
    ids=["of another enrolment", "too large to be read back", "unreadable"],
)
def test_an_answer_that_no_agent_could_start_with_is_not_taken(
    make: Callable[..., Device],
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    before: bytes,
    new_key: bool,
) -> None:
    """A stolen controller could end every device's service with it, at its next start."""
    device = make(new_key=new_key)
    real = Registration.renew

    async def renew(self: Registration, name: str, request: str) -> Any:
        answer = await real(self, name, request)
        issued = device.api.authority.issue_device(
            request,
            device=name,
            enrolment_number=device.identity.enrolment_number + number,
            now=datetime.now(UTC),
            days=30,
        )
        return answer.model_copy(update={"certificate": (before + issued.certificate).decode()})

    monkeypatch.setattr(Registration, "renew", renew)
    with pytest.raises(MailboatError):
        device.renew()
    device.restart()
    assert device.connects()
    monkeypatch.undo()
    device.look()
    device.renew()
    assert device.is_whole()


def test_an_answer_for_another_key_is_not_taken(
    make: Callable[..., Device], monkeypatch: pytest.MonkeyPatch
) -> None:
    device = make(new_key=False)
    other = ec.generate_private_key(ec.SECP256R1())
    swapped = device.api.authority.issue_device(
        _request_of(other, device.name),
        device=device.name,
        enrolment_number=1,
        now=datetime.now(UTC),
        days=1,
    )
    real = Registration.renew

    async def renew(self: Registration, name: str, request: str) -> Any:
        answer = await real(self, name, request)
        return answer.model_copy(update={"certificate": swapped.certificate.decode()})

    monkeypatch.setattr(Registration, "renew", renew)
    with pytest.raises(MailboatError, match="no certificate for this device"):
        device.renew()
    assert device.connects()


def test_a_context_without_dates_still_checks_ca_and_name(
    make: Callable[..., Device], tmp_path: Path
) -> None:
    device = make()
    check_dates(device.tls, check=False)

    assert device.tls.verify_mode is ssl.CERT_REQUIRED
    assert device.tls.check_hostname
    device.api.authority.create(tmp_path / "other", FLEET, now=datetime.now(UTC))
    stranger = tls_context(tmp_path / "other" / "ca.pem")
    check_dates(stranger, check=False)

    async def ask() -> None:
        source = HttpsSource(device.api.url, stranger)
        try:
            await Registration(source).challenge(device.name)
        finally:
            await source.close()

    with pytest.raises(Transient, match=r"(?i)certificate verify failed"):
        asyncio.run(ask())


class TestEnrolmentWithApproval:
    def wishes(self, api: RunningApi, tmp_path: Path, **more: Any) -> Wishes:
        import json

        kit = api.kit(approval=True) | {"api_url": api.url}
        (tmp_path / "kit.json").write_text(json.dumps(kit))
        return Wishes(
            kit=tmp_path / "kit.json",
            device=f"gate-{os.urandom(4).hex()}",
            config=tmp_path / "agent.toml",
            **more,
        )

    def test_goes_on_where_it_gave_up(self, api: RunningApi, tmp_path: Path) -> None:
        wishes = self.wishes(api, tmp_path, approval_seconds=0)
        shown: list[EnrolmentPending] = []
        with pytest.raises(ApprovalPending) as caught:
            asyncio.run(enrol(wishes, shown.append))
        assert caught.value.code == "E-APPROVAL-PENDING"
        assert not wishes.config.exists()

        answer = api.ask(
            "POST",
            f"/v1/devices/{wishes.device}/approve",
            by="alice",
            body={"fingerprint": shown[0].fingerprint},
        )
        assert answer.status == 200, answer.content
        assert asyncio.run(enrol(wishes)).device == wishes.device

    @pytest.mark.slow  # it asks every five seconds
    def test_ends_when_it_is_rejected(self, api: RunningApi, tmp_path: Path) -> None:
        wishes = self.wishes(api, tmp_path)

        def reject(pending: EnrolmentPending) -> None:
            path = f"/v1/devices/{pending.device}/reject"
            assert api.ask("POST", path, by="alice", body={"reason": "not ours"}).status == 200

        async def run() -> None:
            await enrol(wishes, lambda pending: reject(pending.model_copy()))

        with pytest.raises(NotPermitted, match="E-ENROLMENT-REJECTED"):
            asyncio.run(run())


async def _power_cut() -> None:
    raise KeyboardInterrupt


def _request(key_path: Path, name: str) -> str:
    return _request_of(make_key(key_path), name)


def _request_of(key: ec.EllipticCurvePrivateKey, name: str) -> str:
    from mailboat_agent.identity.device_key import certificate_request

    return certificate_request(key, name, FLEET).decode()


def test_whoever_holds_an_identity_sees_the_new_one(make: Callable[..., Device]) -> None:
    device = make()
    held: Identity = device.identity
    device.renew()

    assert held.keyid == load_identity(device.files.key, device.files.certificate).keyid

"""Bundles against a device's own trust root: each refusal is one of the classic attacks."""

from datetime import timedelta
from pathlib import Path

import pytest

from mailboat_schemas.desired import Assignment, ManifestBundle, ReleaseRef
from mailboat_schemas.errors import RollbackRefused, SignatureInvalid, TrustRefused, TrustStale
from mailboat_schemas.trust import TrustView, accept_trust, newer_timestamp, open_desired
from trust_fleet import CLASS, FLEET, MODEL, TrustFleet


class Device:
    """Just the trust of a device: what it holds, and a way to accept more."""

    def __init__(self, factory_root: bytes, tmp_path: Path) -> None:
        self.factory_root = factory_root
        self.tmp_path = tmp_path
        self.held: dict[str, bytes] = {}
        self.scratches = 0

    def accept(self, bundle: ManifestBundle) -> TrustView:
        self.scratches += 1
        scratch = self.tmp_path / f"scratch-{self.scratches}"
        scratch.mkdir()
        self.held = accept_trust(
            bundle.trust,
            factory_root=self.factory_root,
            held=self.held,
            models=[MODEL],
            scratch=scratch,
        )
        return TrustView(self.factory_root, self.held)


@pytest.fixture
def fleet(tmp_path: Path) -> TrustFleet:
    return TrustFleet(tmp_path / "keys")


@pytest.fixture
def device(fleet: TrustFleet, tmp_path: Path) -> Device:
    return Device(fleet.factory_root, tmp_path)


def test_an_approved_release_may_be_installed(fleet: TrustFleet, device: Device) -> None:
    digest = fleet.release("1.0.0")
    view = device.accept(fleet.read(fleet.bundle()))

    assert view.standing(MODEL, "1.0.0").may_install(digest)


def test_a_release_without_approval_may_not(fleet: TrustFleet, device: Device) -> None:
    digest = fleet.release("1.0.0", approve=False)
    standing = device.accept(fleet.read(fleet.bundle())).standing(MODEL, "1.0.0")

    assert standing.released_digest == digest
    assert not standing.may_install(digest)


def test_a_withdrawn_release_may_not_be_served(fleet: TrustFleet, device: Device) -> None:
    digest = fleet.release("1.0.0")
    assert device.accept(fleet.read(fleet.bundle())).standing(MODEL, "1.0.0").may_serve(digest)
    fleet.withdraw("1.0.0")

    assert not device.accept(fleet.read(fleet.bundle())).standing(MODEL, "1.0.0").may_serve(digest)


def test_an_older_bundle_is_refused_as_a_rollback(fleet: TrustFleet, device: Device) -> None:
    fleet.release("1.0.0")
    yesterday = fleet.read(fleet.bundle())
    fleet.withdraw("1.0.0")
    device.accept(fleet.read(fleet.bundle()))

    with pytest.raises(RollbackRefused):
        device.accept(yesterday)


def test_the_same_bundle_again_changes_nothing(fleet: TrustFleet, device: Device) -> None:
    fleet.release("1.0.0")
    bundle = fleet.read(fleet.bundle())
    device.accept(bundle)
    before = dict(device.held)

    device.accept(bundle)

    assert device.held == before


def test_a_bundle_that_hides_the_approval_role_is_refused(
    fleet: TrustFleet, device: Device
) -> None:
    fleet.release("1.0.0")
    bundle = fleet.read(fleet.bundle())
    hidden = {name: content for name, content in bundle.trust.items() if "approval" not in name}

    with pytest.raises(TrustRefused):
        device.accept(bundle.model_copy(update={"trust": hidden}))


def test_an_old_role_under_a_new_snapshot_is_refused(fleet: TrustFleet, device: Device) -> None:
    fleet.release("1.0.0")
    old = fleet.roles["approval-vad"]
    fleet.withdraw("1.0.0")
    bundle = fleet.read(fleet.bundle())
    mixed = dict(bundle.trust) | {"3.approval-vad.json": old}

    with pytest.raises(TrustRefused):
        device.accept(bundle.model_copy(update={"trust": mixed}))


def test_metadata_of_another_fleet_is_refused(
    fleet: TrustFleet, device: Device, tmp_path: Path
) -> None:
    stranger = TrustFleet(tmp_path / "stranger")
    stranger.release("1.0.0")

    with pytest.raises(TrustRefused):
        device.accept(stranger.read(stranger.bundle()))


def test_expired_metadata_installs_nothing_new(tmp_path: Path) -> None:
    fleet = TrustFleet(tmp_path / "keys")
    fleet.now -= timedelta(days=8)
    fleet.release("1.0.0")
    device = Device(fleet.factory_root, tmp_path)

    with pytest.raises(TrustStale):
        device.accept(fleet.read(fleet.bundle()))


def test_what_is_held_can_be_read_however_old_it_is(tmp_path: Path) -> None:
    fleet = TrustFleet(tmp_path / "keys")
    digest = fleet.release("1.0.0")
    device = Device(fleet.factory_root, tmp_path)
    device.accept(fleet.read(fleet.bundle()))
    fleet.now -= timedelta(days=400)
    fleet.resign()
    held = device.held | {"timestamp.json": fleet.roles["timestamp"]}

    assert TrustView(fleet.factory_root, held).standing(MODEL, "1.0.0").may_serve(digest)


def test_a_role_changed_on_disk_is_found_out(fleet: TrustFleet, device: Device) -> None:
    fleet.release("1.0.0")
    device.accept(fleet.read(fleet.bundle()))
    role = device.held["approval-vad.json"]
    altered = role.replace(b'"cap_ppm":1000000', b'"cap_ppm":1000001')
    assert altered != role

    view = TrustView(fleet.factory_root, device.held | {"approval-vad.json": altered})
    with pytest.raises(SignatureInvalid):
        view.standing(MODEL, "1.0.0")


def test_a_desired_state_signed_by_another_key_is_refused(
    fleet: TrustFleet, device: Device, tmp_path: Path
) -> None:
    fleet.release("1.0.0")
    view = device.accept(fleet.read(fleet.bundle()))
    stranger = TrustFleet(tmp_path / "stranger")

    with pytest.raises(SignatureInvalid):
        open_desired(stranger.read(stranger.bundle()), view, fleet=FLEET, hardware_class=CLASS)


@pytest.mark.parametrize(("name", "hardware_class"), [(FLEET, "other"), ("other", CLASS)])
def test_a_desired_state_for_another_class_or_fleet_is_refused(
    fleet: TrustFleet, device: Device, name: str, hardware_class: str
) -> None:
    fleet.release("1.0.0")
    bundle = fleet.read(fleet.bundle(fleet=name, hardware_class=hardware_class))
    view = device.accept(bundle)

    with pytest.raises(TrustRefused):
        open_desired(bundle, view, fleet=FLEET, hardware_class=CLASS)


def test_a_desired_state_reads_back(fleet: TrustFleet, device: Device) -> None:
    digest = fleet.release("1.0.0")
    wish = Assignment(model=MODEL, current=ReleaseRef(version="1.0.0", digest=digest))
    bundle = fleet.read(fleet.bundle(wish))
    view = device.accept(bundle)

    desired = open_desired(bundle, view, fleet=FLEET, hardware_class=CLASS)

    assert desired.assignments == (wish,)


def test_of_two_timestamps_the_newer_is_taken(fleet: TrustFleet) -> None:
    old = fleet.roles["timestamp"]
    fleet.resign()
    new = fleet.roles["timestamp"]

    assert newer_timestamp(old, new) == new
    assert newer_timestamp(new, old) == new
    assert newer_timestamp(old, b"garbage") == old

"""New keys and roles at the controller, and what devices make of them.

A real database, a real reconciler, and the trust store of the real agent, which keeps on its disk
what it has accepted.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.formats import encode_canonical
from securesystemslib.signer import SSlibKey
from tuf.api.metadata import Metadata, Root, TargetFile, Targets

from controller_core import Core, plan
from enrolled_fleet import migrated_store
from mailboat_agent.trust.trust_store import TrustStore
from mailboat_controller.authority import changes, online, roles
from mailboat_controller.authority.changes import Draft
from mailboat_controller.authority.keys import create_key
from mailboat_controller.authority.public_keys import has_own_id
from mailboat_controller.reconcile import Reconciler
from mailboat_controller.store import audit, trust_roles
from mailboat_controller.trust import held_trust, role_intake
from mailboat_controller.trust.role_admission import (
    REFUSALS_AUDITED_PER_MINUTE,
    ROLES_NAMED_MAX,
    RoleAdmission,
)
from mailboat_schemas.codec import decode
from mailboat_schemas.desired import DesiredState, ManifestBundle
from mailboat_schemas.envelope import Envelope, PayloadType
from mailboat_schemas.errors import ConfigurationInvalid, MailboatError, SignatureInvalid
from mailboat_schemas.trust import ROLE_BYTES_MAX, TrustView
from signing_room import SigningRoom, held_by
from trust_fleet import FLEET, TrustFleet

MODELS = ["vad"]


@dataclass
class Desk:
    """A controller that takes roles, the signers' room, and one device."""

    core: Core
    room: SigningRoom
    device: TrustStore

    @property
    def held(self) -> dict[str, bytes]:
        return held_by(self.core.store)

    def take(self, offered: dict[str, bytes]) -> role_intake.TakenRoles:
        admission = RoleAdmission(self.core.store, self.core.reconciler)
        return admission.take(offered, actor="operator:alice", reason="ceremony", now=self.core.now)

    def change(self, change: Callable[[Draft], object], *signers: Any) -> role_intake.TakenRoles:
        return self.take(self.room.signed(self.held, change, *signers))

    def bundle(self) -> ManifestBundle:
        return decode(ManifestBundle, self.core.manifest().bundle)

    def deliver(self) -> TrustView:
        """The newest manifest to the device."""
        return self.device.accept(self.bundle().trust, MODELS)

    def desired(self) -> Envelope:
        return decode(Envelope, self.bundle().desired)

    def versions(self) -> dict[str, int]:
        return {role: held_trust.version_of(content) for role, content in self.held.items()}

    def refused(self, offered: dict[str, bytes]) -> MailboatError:
        """Refused, recorded, and nothing kept."""
        before = self.versions()
        with pytest.raises(MailboatError) as refused:
            self.take(offered)
        assert self.versions() == before
        with self.core.store.read() as tx:
            entries = list(audit.page(tx))
        assert entries[-1].action == "trust.refuse"
        assert entries[-1].details["code"] == refused.value.code
        assert entries[-1].actor == "operator:alice"
        assert refused.value.next_step
        return refused.value


@contextmanager
def open_desk(directory: Path) -> Iterator[Desk]:
    now = datetime.now(UTC)  # python-tuf, on the device, reads the wall clock
    core = Core(directory, now=now)
    core.release("1.0.0", plan("first"))
    core.run()
    device = TrustStore(directory / "device", core.trust.factory_root)
    yield Desk(core, SigningRoom(core.trust.directory, now), device)
    core.store.close()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with open_desk(tmp_path) as desk:
        yield desk


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """For what is refused: nothing stays of it, so that one desk does for all."""
    with open_desk(tmp_path_factory.mktemp("strict")) as desk:
        yield desk


def renewed_root(draft: Draft) -> None:
    draft.renew("root")


class TestTaken:
    def test_a_new_root_reaches_devices_with_everything_signed_again(self, desk: Desk) -> None:
        desk.deliver()
        taken = desk.change(renewed_root, desk.room.key("offline/root"))

        assert taken.versions == {"root": 2}
        assert desk.deliver().versions()["root"] == 2

    def test_what_was_taken_is_in_the_audit_log_with_actor_and_words(self, desk: Desk) -> None:
        desk.change(renewed_root, desk.room.key("offline/root"))

        with desk.core.store.read() as tx:
            (entry,) = [row for row in audit.page(tx) if row.action == "trust.submit"]
        assert (entry.actor, entry.subject, entry.reason) == (
            "operator:alice",
            "root 2",
            "ceremony",
        )
        assert entry.details["changes"][0].startswith("root version 1 becomes 2")

    def test_ten_rotations_of_the_root_key_that_a_device_slept_through(self, desk: Desk) -> None:
        desk.deliver()
        signer = desk.room.key("offline/root")
        for number in range(10):
            following = desk.room.new_key(f"root-{number}")
            desk.change(
                lambda draft, key=following: draft.set_keys("root", [key.public_key]),
                signer,
                following,
            )
            signer = following

        view = desk.deliver()
        assert view.versions()["root"] == 11
        assert view.root.signed.roles["root"].keyids == [signer.public_key.keyid]

    def test_a_model_that_is_added_can_be_released_and_approved(self, desk: Desk) -> None:
        ci = create_key(desk.room.keys / "ci" / "asr.pem")
        approver = create_key(desk.room.keys / "approver" / "asr.pem")
        desk.change(
            lambda draft: draft.add_model(
                "asr",
                release_keys=[ci.public_key],
                approval_keys=[approver.public_key],
                threshold=1,
            ),
            desk.room.key("offline/targets"),
            ci,
            approver,
        )
        desk.core.trust.roles = {
            role: content for role, content in desk.held.items() if role != "root"
        }
        desk.core.release("1.0.0", plan("asr-first"), model="asr")
        desk.core.run()

        view = desk.device.accept(desk.bundle().trust, ["vad", "asr"])
        assert view.standing("asr", "1.0.0").approved_digest

    def test_an_approval_role_is_renewed_without_touching_what_is_approved(
        self, desk: Desk
    ) -> None:
        desk.core.now += timedelta(days=20)
        desk.room.now = desk.core.now
        desk.change(lambda draft: draft.renew("approval-vad"), desk.room.key("approver/vad"))

        role = Metadata[Targets].from_bytes(desk.held["approval-vad"]).signed
        assert role.expires == roles.expiry(desk.core.now, roles.APPROVAL_ROLE_VALID)
        assert list(role.targets) == ["approval/vad/1.0.0.json"]
        assert held_trust.version_of(desk.held["snapshot"]) > 1

    def test_a_retired_approver_cannot_approve_any_more(self, desk: Desk) -> None:
        carol = desk.room.new_key("carol")
        desk.change(
            lambda draft: draft.set_keys("approval-vad", [carol.public_key]),
            desk.room.key("offline/targets"),
            carol,
        )
        desk.core.trust.roles = {
            role: content for role, content in desk.held.items() if role != "root"
        }
        desk.core.trust.release("1.1.0", plan("second"))  # signed by the retired key
        reply = desk.core.submit("release-vad", "approval-vad")

        assert (reply.status, reply.code) == ("rejected", "E-SIGNATURE")
        assert desk.deliver().standing("vad", "1.0.0").approved_digest


class TestOnlineKeys:
    def rotate(self, desk: Desk, *names: str) -> Path:
        """Make the successors on the controller's disk, and name those in new roles."""
        keys = desk.room.keys / "controller" / "keys"
        online.make_next(keys)
        public = {role: desk.room.key(f"controller/keys/next/{role}") for role in names}

        def change(draft: Draft) -> None:
            for role, signer in public.items():
                draft.set_keys(role, [signer.public_key])

        signers = [desk.room.key("offline/root")] if {"snapshot", "timestamp"} & set(names) else []
        signers += [desk.room.key("offline/targets")] if "director" in names else []
        desk.change(change, *signers)
        return keys

    def test_the_controller_changes_over_while_it_runs(self, desk: Desk) -> None:
        before = desk.deliver()
        self.rotate(desk, "snapshot", "timestamp", "director")

        after = desk.deliver()
        for role in ("snapshot", "timestamp"):
            new = desk.room.key(f"controller/keys/next/{role}").public_key.keyid
            assert after.root.signed.roles[role].keyids == [new]
            assert before.root.signed.roles[role].keyids != [new]
        payload = after.open_from_director(desk.desired(), PayloadType.DESIRED_STATE)
        assert decode(DesiredState, payload).assignments

    def test_the_old_directors_desired_state_is_refused_from_then_on(self, desk: Desk) -> None:
        old = desk.desired()
        desk.deliver().open_from_director(old, PayloadType.DESIRED_STATE)
        self.rotate(desk, "director")

        with pytest.raises(SignatureInvalid):
            desk.deliver().open_from_director(old, PayloadType.DESIRED_STATE)

    def test_a_thief_of_the_old_keys_cannot_sign_a_timestamp_any_more(self, desk: Desk) -> None:
        desk.deliver()
        self.rotate(desk, "snapshot", "timestamp")
        trust = dict(desk.bundle().trust)
        stolen = desk.room.key("controller/keys/timestamp")
        newer = Metadata.from_bytes(trust["timestamp.json"]).signed
        newer.version += 5
        trust["timestamp.json"] = roles.sign(newer, [stolen])

        with pytest.raises(SignatureInvalid):
            desk.device.accept(trust, MODELS)

    def test_keys_that_the_controller_does_not_have_are_not_taken(self, desk: Desk) -> None:
        strange = desk.room.new_key("timestamp")
        offered = desk.room.signed(
            desk.held,
            lambda draft: draft.set_keys("timestamp", [strange.public_key]),
            desk.room.key("offline/root"),
        )

        assert desk.refused(offered).code == "E-ONLINE-KEY"

    def test_successors_settle_in_their_places_once_they_are_named(self, desk: Desk) -> None:
        keys = self.rotate(desk, "director")
        successor = (keys / "next" / "director.pem").read_bytes()
        with desk.core.store.read() as tx:
            named = held_trust.named_keyids(tx)

        assert online.settle(keys, named) == ("director",)
        assert (keys / "director.pem").read_bytes() == successor
        assert sorted(path.name for path in (keys / "next").iterdir()) == [
            "snapshot.pem",
            "snapshot.pub",
            "timestamp.pem",
            "timestamp.pub",
        ]
        assert online.settle(keys, named) == ()
        assert online.OnlineKeys.load(keys).director_keyid in named["director"]

    def test_successors_are_not_made_over_others_that_wait(self, desk: Desk) -> None:
        keys = desk.room.keys / "controller" / "keys"
        place = online.make_next(keys)
        before = (place / "director.pem").read_bytes()

        with pytest.raises(MailboatError, match="already"):
            online.make_next(keys)
        assert (place / "director.pem").read_bytes() == before

    def test_a_restart_between_submission_and_settling_finds_the_named_keys(
        self, desk: Desk
    ) -> None:
        keys = self.rotate(desk, "snapshot", "timestamp", "director")
        fresh = online.OnlineKeys.load(keys)  # the old ones, still in their places
        with desk.core.store.read() as tx:
            found = held_trust.named_keys(tx, fresh)

        assert found.director_keyid != fresh.director_keyid

    def test_with_neither_key_named_it_does_not_start(self, desk: Desk) -> None:
        keys = self.rotate(desk, "director")
        (keys / "next" / "director.pem").unlink()

        with (
            desk.core.store.read() as tx,
            pytest.raises(ConfigurationInvalid, match=r"director\.pem is not the one"),
        ):
            held_trust.named_keys(tx, online.OnlineKeys.load(keys))

    def test_a_new_root_from_the_trust_directory_is_signed_for_at_once(self, desk: Desk) -> None:
        keys = desk.room.keys / "controller" / "keys"
        online.make_next(keys)
        new = desk.room.key("controller/keys/next/timestamp")
        offered = desk.room.signed(
            desk.held,
            lambda draft: draft.set_keys("timestamp", [new.public_key]),
            desk.room.key("offline/root"),
        )
        (desk.core.trust_directory / "2.root.json").write_bytes(offered["root"])
        with desk.core.store.transaction() as tx:
            held_trust.import_directory(
                tx, desk.core.trust_directory, desk.core.now, online.OnlineKeys.load(keys)
            )

        with desk.core.store.read() as tx:
            assert held_trust.read(tx).view.versions()["root"] == 2


def edited(content: bytes, edit: Callable[[Any], object], *signers: Any) -> bytes:
    """A signed role changed by hand, version + 1, signed by whoever the test says."""
    signed = Metadata.from_bytes(content).signed
    signed.version += 1
    edit(signed)
    return roles.sign(signed, signers)


def nothing(_signed: Any) -> None:
    pass


def in_capitals(key: SSlibKey) -> SSlibKey:
    """The same Ed25519 key with its digits in capitals, under the id that these give."""
    public = key.keyval["public"].upper()
    content = {"keytype": key.keytype, "scheme": key.scheme, "keyval": {"public": public}}
    keyid = hashlib.sha256(str(encode_canonical(content)).encode()).hexdigest()
    return SSlibKey(keyid, key.keytype, key.scheme, {"public": public})


class TestRefused:
    def root(self, desk: Desk, edit: Callable[[Root], object], *names: str) -> dict[str, bytes]:
        signers = [desk.room.key(name) for name in names or ("offline/root",)]
        return {"root": edited(desk.held["root"], edit, *signers)}

    def targets(self, desk: Desk, edit: Callable[[Targets], object]) -> dict[str, bytes]:
        signer = desk.room.key("offline/targets")
        return {"targets": edited(desk.held["targets"], edit, signer)}

    def test_one_signature_less_than_the_threshold(self, desk: Desk) -> None:
        second = desk.room.new_key("second")
        desk.change(
            lambda draft: changes.add_key(draft, "root", second.public_key, 2),
            desk.room.key("offline/root"),
            second,
        )

        assert desk.refused(self.root(desk, nothing)).code == "E-THRESHOLD"

    def test_the_same_signature_twice_is_one(self, desk: Desk) -> None:
        second = desk.room.new_key("second")
        desk.change(
            lambda draft: changes.add_key(draft, "root", second.public_key, 2),
            desk.room.key("offline/root"),
            second,
        )
        once = self.root(desk, nothing)["root"]
        start = once.index(b'"signatures":[') + len(b'"signatures":[')
        end = once.index(b"]", start)
        twice = once[:end] + b"," + once[start:end] + once[end:]

        assert desk.refused({"root": twice}).code in ("E-THRESHOLD", "E-PAYLOAD-MALFORMED")

    def test_one_key_under_two_ids(self, strict: Desk) -> None:
        def double(root: Root) -> None:
            key = root.keys[root.roles["root"].keyids[0]]
            again = type(key)("0" * 64, key.keytype, key.scheme, key.keyval)
            root.add_key(again, "root")
            root.roles["root"].threshold = 2

        signed = Metadata[Root].from_bytes(self.root(strict, double)["root"])
        (own,) = signed.signatures.values()
        signed.signatures["0" * 64] = type(own)("0" * 64, own.signature)
        content = signed.to_bytes(roles.SERIALIZER)

        assert strict.refused({"root": content}).code == "E-ROLE-SHAPE"

    def test_one_key_written_in_two_ways(self, strict: Desk) -> None:
        """Each id is the hash of what is written, so the ids differ and each is its own."""
        again = in_capitals(strict.room.key("offline/root").public_key)

        def double(root: Root) -> None:
            root.add_key(again, "root")
            root.roles["root"].threshold = 2

        signed = Metadata[Root].from_bytes(self.root(strict, double)["root"])
        (own,) = signed.signatures.values()
        signed.signatures[again.keyid] = type(own)(again.keyid, own.signature)
        content = signed.to_bytes(roles.SERIALIZER)

        assert has_own_id(again)
        error = strict.refused({"root": content})
        assert (error.code, "two ways" in error.what) == ("E-ROLE-SHAPE", True)

    def test_a_pipeline_that_may_approve_under_another_id(self, strict: Desk) -> None:
        ci = strict.room.key("ci/vad")
        again = in_capitals(ci.public_key)
        targets = self.targets(
            strict, lambda targets: roles.delegate(targets, "approval-vad", [again])
        )
        signed = Metadata[Targets].from_bytes(edited(strict.held["approval-vad"], nothing, ci))
        (own,) = signed.signatures.values()
        signed.signatures = {again.keyid: type(own)(again.keyid, own.signature)}
        approval = signed.to_bytes(roles.SERIALIZER)

        assert strict.refused({**targets, "approval-vad": approval}).code == "E-KEY-SHARED"

    @pytest.mark.parametrize(
        "name", ["ci/vad", "approver/vad", "offline/targets", "controller/keys/director"]
    )
    def test_a_root_by_any_other_key(self, strict: Desk, name: str) -> None:
        assert strict.refused(self.root(strict, nothing, name)).code == "E-SIGNATURE"

    def test_a_root_that_only_its_own_new_keys_signed(self, strict: Desk) -> None:
        mallory = strict.room.new_key("mallory")

        def take_over(root: Root) -> None:
            (old,) = root.roles["root"].keyids
            root.revoke_key(old, "root")
            root.add_key(mallory.public_key, "root")

        offered = {"root": edited(strict.held["root"], take_over, mallory)}
        error = strict.refused(offered)
        assert error.code == "E-SIGNATURE"
        assert "the keys of the root in force" in error.what

    def test_a_root_that_only_the_old_keys_signed(self, strict: Desk) -> None:
        new = strict.room.new_key("new")

        def hand_over(root: Root) -> None:
            (old,) = root.roles["root"].keyids
            root.revoke_key(old, "root")
            root.add_key(new.public_key, "root")

        assert strict.refused(self.root(strict, hand_over)).code == "E-SIGNATURE"

    def test_a_gap_in_the_chain(self, strict: Desk) -> None:
        def skip(root: Root) -> None:
            root.version += 1

        error = strict.refused(self.root(strict, skip))
        assert error.code == "E-REBASE"
        assert "make the same request again" in error.next_step

    def test_the_same_version_again(self, desk: Desk) -> None:
        offered = self.root(desk, nothing)
        desk.take(offered)

        assert desk.refused(offered).code == "E-REBASE"

    def test_who_comes_second_is_told_to_build_on_the_first(self, desk: Desk) -> None:
        signer = desk.room.key("offline/targets")
        first = desk.room.signed(desk.held, lambda draft: draft.renew("targets"), signer)
        second = desk.room.signed(desk.held, lambda draft: draft.renew("targets"), signer)
        desk.take(first)

        assert desk.refused(second).code == "E-REBASE"
        desk.change(lambda draft: draft.renew("targets"), signer)

    def test_what_has_expired_already(self, strict: Desk) -> None:
        def expire(root: Root) -> None:
            root.expires = (strict.core.now - timedelta(seconds=1)).replace(microsecond=0)

        assert strict.refused(self.root(strict, expire)).code == "E-ROLE-EXPIRED"

    def test_what_was_made_in_the_future(self, strict: Desk) -> None:
        def hurry(root: Root) -> None:
            roles.stamp(root, strict.core.now + timedelta(days=1))

        assert strict.refused(self.root(strict, hurry)).code == "E-ROLE-ISSUED"

    def test_an_approval_that_lasts_for_years(self, strict: Desk) -> None:
        """Whoever then stole the controller could hide a withdrawal for as long."""
        approver = strict.room.key("approver/vad")

        def for_years(signed: Targets) -> None:
            signed.expires = strict.core.now.replace(microsecond=0) + timedelta(days=31)

        approval = edited(strict.held["approval-vad"], for_years, approver)
        error = strict.refused({"approval-vad": approval})
        assert (error.code, "lasts longer" in error.what) == ("E-ROLE-SHAPE", True)

    def test_a_role_over_the_bound(self, strict: Desk) -> None:
        error = strict.refused({"root": b" " * (ROLE_BYTES_MAX + 1)})
        assert error.code == "E-PAYLOAD-TOO-LARGE"

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"signed": 1}', b"\xff", b"[" * 9999])
    def test_what_is_no_metadata(self, strict: Desk, content: bytes) -> None:
        assert strict.refused({"root": content}).code == "E-PAYLOAD-MALFORMED"

    @pytest.mark.parametrize("number", [b"1.5", b"1e999", b"NaN", b'"2"', b"true"])
    def test_a_version_that_is_no_whole_number(self, strict: Desk, number: bytes) -> None:
        content = strict.held["root"].replace(b'"version":1', b'"version":' + number)
        assert content != strict.held["root"]

        assert strict.refused({"root": content}).code in ("E-PAYLOAD-MALFORMED", "E-REBASE")

    def test_another_type_of_role_in_its_place(self, strict: Desk) -> None:
        assert strict.refused({"root": strict.held["targets"]}).code == "E-PAYLOAD-MALFORMED"
        assert strict.refused({"targets": strict.held["snapshot"]}).code == "E-PAYLOAD-MALFORMED"

    @pytest.mark.parametrize("role", ["snapshot", "timestamp", "director", "approval-asr", "x"])
    def test_a_role_that_nobody_brings(self, strict: Desk, role: str) -> None:
        assert strict.refused({role: strict.held["approval-vad"]}).code == "E-ROLE-UNKNOWN"

    def test_more_roles_than_a_submission_has(self, strict: Desk) -> None:
        many = {f"approval-m{number}": b"{}" for number in range(role_intake.ROLES_MAX + 1)}

        assert strict.refused(many).code == "E-ROLE-SHAPE"
        assert strict.refused({}).code == "E-ROLE-SHAPE"

    def test_an_approval_by_the_side_door(self, strict: Desk) -> None:
        def approve(role: Targets) -> None:
            path = "approval/vad/9.9.9.json"
            role.targets[path] = TargetFile.from_data(path, b"{}", ["sha256"])

        signer = strict.room.key("approver/vad")
        offered = {"approval-vad": edited(strict.held["approval-vad"], approve, signer)}

        assert strict.refused(offered).code == "E-ROLE-CONTENTS"

    def test_a_withdrawal_by_the_side_door(self, strict: Desk) -> None:
        signer = strict.room.key("approver/vad")
        offered = {
            "approval-vad": edited(
                strict.held["approval-vad"], lambda role: role.targets.clear(), signer
            )
        }

        assert strict.refused(offered).code == "E-ROLE-CONTENTS"

    def test_new_approvers_without_the_approvals_signed_again(self, strict: Desk) -> None:
        carol = strict.room.new_key("carol")
        offered = self.targets(
            strict, lambda targets: roles.delegate(targets, "approval-vad", [carol.public_key])
        )

        error = strict.refused(offered)
        assert error.code == "E-SIGNATURE"
        assert "approval-vad" in error.what

    def test_a_pipeline_that_may_approve(self, strict: Desk) -> None:
        """CI approving itself begins with a key in both roles."""
        ci = strict.room.key("ci/vad")
        targets = self.targets(
            strict, lambda targets: roles.delegate(targets, "approval-vad", [ci.public_key])
        )
        approval = edited(strict.held["approval-vad"], nothing, ci)

        assert strict.refused({**targets, "approval-vad": approval}).code == "E-KEY-SHARED"

    def test_a_director_that_may_approve(self, strict: Desk) -> None:
        director = strict.room.key("controller/keys/director")
        targets = self.targets(
            strict, lambda targets: roles.delegate(targets, "approval-vad", [director.public_key])
        )
        approval = edited(strict.held["approval-vad"], nothing, director)

        assert strict.refused({**targets, "approval-vad": approval}).code == "E-KEY-SHARED"

    @pytest.mark.parametrize(
        "edit",
        [
            lambda targets: targets.delegations.roles.pop("policy"),
            lambda targets: setattr(targets.delegations.roles["release-vad"], "paths", ["*"]),
            lambda targets: setattr(targets.delegations.roles["release-vad"], "terminating", True),
            lambda targets: setattr(targets.delegations.roles["policy"], "threshold", 5),
            lambda targets: targets.targets.update(
                {"x": TargetFile.from_data("x", b"", ["sha256"])}
            ),
            lambda targets: targets.delegations.keys.pop(
                targets.delegations.roles["director"].keyids[0]
            ),
            lambda targets: roles.delegate(
                targets, "release-asr", [next(iter(targets.delegations.keys.values()))]
            ),
        ],
        ids=["gone", "paths", "terminating", "quorum", "lists files", "key gone", "no version 1"],
    )
    def test_targets_that_devices_could_not_work_with(
        self, strict: Desk, edit: Callable[[Targets], object]
    ) -> None:
        assert strict.refused(self.targets(strict, edit)).code == "E-ROLE-SHAPE"

    def test_a_root_without_consistent_snapshots(self, strict: Desk) -> None:
        offered = self.root(strict, lambda root: setattr(root, "consistent_snapshot", False))

        assert strict.refused(offered).code == "E-ROLE-SHAPE"

    def test_one_bad_role_takes_the_good_ones_with_it(self, strict: Desk) -> None:
        offered = self.root(strict, nothing) | {"approval-vad": b"{}"}

        strict.refused(offered)
        assert strict.versions()["root"] == 1


def test_refusals_as_fast_as_somebody_can_ask_do_not_fill_the_audit_log(desk: Desk) -> None:
    admission = RoleAdmission(desk.core.store, desk.core.reconciler)
    for _ in range(5 * REFUSALS_AUDITED_PER_MINUTE):
        with pytest.raises(MailboatError):
            admission.take({"root": b"no"}, actor="operator:eve", reason="x", now=desk.core.now)
    with pytest.raises(MailboatError):
        admission.take({"root": b"no"}, actor="operator:alice", reason="x", now=desk.core.now)

    with desk.core.store.read() as tx:
        entries = [each for each in audit.page(tx, limit=500) if each.action == "trust.refuse"]
    assert REFUSALS_AUDITED_PER_MINUTE < len(entries) < 2 * REFUSALS_AUDITED_PER_MINUTE
    assert entries[-1].actor == "operator:alice"
    assert entries[-1].details["left_out_before"] > 3 * REFUSALS_AUDITED_PER_MINUTE


@pytest.mark.parametrize("days", [6.9, 29])
def test_a_ceremony_that_was_held_long_before_the_first_start_leaves_no_gap(
    tmp_path: Path, days: float
) -> None:
    """Its snapshot and timestamp have aged meanwhile: what counts is how long they still last."""
    held = datetime.now(UTC)
    trust = TrustFleet(tmp_path / "ceremony", now=held)
    store = migrated_store(tmp_path)
    started = held + timedelta(days=days)
    with store.transaction() as tx:
        held_trust.import_directory(tx, trust.directory / "controller" / "trust", started)
    reconciler = Reconciler(store, trust.online, FLEET)

    for hours in range(0, 24 * 17, 23):
        now = started + timedelta(hours=hours)
        reconciler.run(now)
        for role in ("snapshot", "timestamp"):
            left = Metadata.from_bytes(held_by(store)[role]).signed.expires - now
            assert left > timedelta(days=5), f"{role} {hours} h after the start"
    store.close()


def test_signing_goes_on_by_itself_for_a_fortnight(desk: Desk) -> None:
    """Sixteen days of an idle controller: daily timestamps, one snapshot, and nothing runs out."""
    begin = desk.core.now
    signed: list[str] = []
    for hour in range(0, 16 * 24, 6):
        desk.core.now = begin + timedelta(hours=hour)
        signed += desk.core.run().signed
        with desk.core.store.read() as tx:
            newest = trust_roles.newest(tx)
        for role in ("snapshot", "timestamp"):
            assert Metadata.from_bytes(newest[role]).signed.expires > desk.core.now + timedelta(5)

    assert signed.count("timestamp") in (12, 13, 14, 15, 16)
    assert signed.count("snapshot") == 1


def test_a_refusal_of_very_many_roles_names_the_first_few(strict: Desk) -> None:
    """Their names come from afar; in the audit log they would stay."""
    strict.refused({f"approval-m{number}": b"no" for number in range(ROLES_NAMED_MAX + 1)})

    with strict.core.store.read() as tx:
        subject = list(audit.page(tx, limit=500))[-1].subject
    assert subject.split(", ") == [f"approval-m{number}" for number in range(ROLES_NAMED_MAX)]

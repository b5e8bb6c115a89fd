"""What CI and approvers send is taken whole or refused with a code; here every way to be refused.

Real keys of a real ceremony; each hostile role is signed by whoever the test says.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tuf.api.metadata import DelegatedRole, Delegations, Metadata, TargetFile, Targets

from mailboat_controller.authority import roles
from mailboat_controller.authority.ceremony import Quorum
from mailboat_controller.authority.keys import load_key
from mailboat_controller.trust.intake import (
    ISSUED_AHEAD_MAX,
    MISSING_LISTED_MAX,
    REASON_CHARS_MAX,
    TARGETS_PER_ROLE_MAX,
    Accepted,
    Held,
    Rejected,
    Withdrawal,
    judge_submission,
)
from mailboat_schemas.documents.release import FILES_MAX, File, ReleaseDocument, document_digest
from mailboat_schemas.plan import Plan, PlanWave
from mailboat_schemas.submission import Submission
from mailboat_schemas.trust import ROLE_BYTES_MAX
from trust_fleet import EVERYBODY, FLEET, MODEL, TrustFleet, document

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
RELEASE, APPROVAL = "release-vad", "approval-vad"
V1 = document("1.0.0")
LATER = Plan(rollout="later", waves=(PlanWave(count=1, cap_ppm=1_000_000),))
OTHER_INTERFACE = {
    "inputs": [{"name": "x", "dtype": "float32", "shape": [-1, 8]}],
    "outputs": [{"name": "y", "dtype": "float32", "shape": [-1, 1]}],
}


def has_everything(_file: File) -> bool:
    return True


@dataclass
class Desk:
    """The keys of everybody, and what the controller holds so far."""

    fleet: TrustFleet
    held: Held = field(init=False)

    def __post_init__(self) -> None:
        self.held = Held(fleet=FLEET, roles=dict(self.fleet.roles), documents={})

    def key(self, path: str) -> Any:
        return load_key(self.fleet.directory / f"{path}.pem")

    def releasing(self, *documents: ReleaseDocument) -> bytes:
        """The next release role, with these documents listed too, signed by CI."""
        return self.changed(RELEASE, lambda role: role.targets.update(map(_listed, documents)))

    def approving(self, released: ReleaseDocument, plan: Plan = EVERYBODY) -> bytes:
        return roles.add_approval(
            self.held.roles[APPROVAL],
            [self.key(f"approver/{MODEL}")],
            model=released.model,
            version=released.version,
            document=released.canonical_bytes(),
            plan=plan.to_custom(),
            now=NOON,
        )

    def changed(
        self, role: str, change: Callable[[Targets], object], *keys: str, by: int = 1
    ) -> bytes:
        """The next version of a held role, changed, signed by these keys or by the right one."""
        signed = Metadata[Targets].from_bytes(self.held.roles[role]).signed
        signed.version += by
        roles.stamp(signed, NOON)
        change(signed)
        right = {RELEASE: "ci/vad", APPROVAL: "approver/vad"}
        return roles.sign(signed, [self.key(key) for key in keys or (right[role],)])

    def judge(
        self,
        offered: Mapping[str, bytes],
        *documents: ReleaseDocument | bytes,
        fleet: str = FLEET,
        has_artifact: Callable[[File], bool] = has_everything,
    ) -> Accepted | Rejected:
        contents = [d if isinstance(d, bytes) else d.canonical_bytes() for d in documents]
        submission = Submission(
            fleet=fleet,
            roles=dict(offered),
            documents={document_digest(content): content for content in contents},
        )
        return judge_submission(submission, self.held, has_artifact, NOON)

    def take(self, offered: Mapping[str, bytes], *documents: ReleaseDocument) -> Accepted:
        """Judge, expect it to be accepted, and hold it from now on."""
        judged = self.judge(offered, *documents)
        assert isinstance(judged, Accepted), judged
        self.held = replace(
            self.held,
            roles={**self.held.roles, **judged.roles},
            documents={**self.held.documents, **judged.documents},
        )
        return judged


def _listed(released: ReleaseDocument) -> tuple[str, TargetFile]:
    path = f"release/{released.model}/{released.version}.json"
    return path, TargetFile.from_data(path, released.canonical_bytes(), ["sha256"])


def code_of(judged: Accepted | Rejected) -> str:
    assert isinstance(judged, Rejected), judged
    assert judged.reasons
    assert all(reason.strip() for reason in judged.reasons)
    return judged.code


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> TrustFleet:
    return TrustFleet(tmp_path_factory.mktemp("trust") / "keys", now=NOON, models=(MODEL, "asr"))


@pytest.fixture
def desk(keys: TrustFleet) -> Desk:
    return Desk(keys)


@pytest.fixture
def released(desk: Desk) -> Desk:
    desk.take({RELEASE: desk.releasing(V1)}, V1)
    return desk


@pytest.fixture
def approved(released: Desk) -> Desk:
    released.take({APPROVAL: released.approving(V1)})
    return released


class TestAccepted:
    def test_a_release_alone_is_a_release_and_nothing_else(self, desk: Desk) -> None:
        offered = {RELEASE: desk.releasing(V1)}
        accepted = desk.take(offered, V1)

        assert accepted == Accepted(
            roles=offered,
            versions={RELEASE: 2},
            documents={document_digest(V1.canonical_bytes()): V1.canonical_bytes()},
            releases=(V1,),
        )

    def test_an_approval_alone_is_an_approval_and_nothing_else(self, released: Desk) -> None:
        # CI's command sends the document with it; it is known already.
        accepted = released.take({APPROVAL: released.approving(V1)}, V1)

        assert (accepted.versions, accepted.documents, accepted.releases) == ({APPROVAL: 2}, {}, ())
        (approval,) = accepted.approvals
        assert (approval.model, approval.version, approval.plan) == (MODEL, "1.0.0", EVERYBODY)
        assert approval.digest == document_digest(V1.canonical_bytes())

    def test_both_together_are_both(self, desk: Desk) -> None:
        accepted = desk.take({RELEASE: desk.releasing(V1), APPROVAL: desk.approving(V1)}, V1)

        assert accepted.versions == {RELEASE: 2, APPROVAL: 2}
        assert [each.version for each in accepted.releases] == ["1.0.0"]
        assert [each.version for each in accepted.approvals] == ["1.0.0"]

    def test_only_what_is_new_is_told(self, approved: Desk) -> None:
        newer = document("1.1.0")
        approved.take({RELEASE: approved.releasing(newer)}, newer, V1)
        accepted = approved.take({APPROVAL: approved.approving(newer)})

        assert [each.version for each in accepted.approvals] == ["1.1.0"]
        assert accepted.withdrawn == ()

    def test_two_releases_at_once_are_two(self, desk: Desk) -> None:
        both = (V1, document("1.0.1"))

        accepted = desk.take({RELEASE: desk.releasing(*both)}, *both)

        assert accepted.releases == both

    def test_another_plan_for_the_same_release_is_a_new_approval(self, approved: Desk) -> None:
        (approval,) = approved.take({APPROVAL: approved.approving(V1, LATER)}).approvals

        assert approval.plan == LATER

    def test_a_role_signed_again_without_a_change_is_nothing_new(self, approved: Desk) -> None:
        accepted = approved.take({APPROVAL: approved.changed(APPROVAL, lambda _role: None)})

        assert accepted.versions == {APPROVAL: 3}
        assert (accepted.approvals, accepted.withdrawn) == ((), ())

    def test_a_withdrawal_is_noticed(self, approved: Desk) -> None:
        content = roles.remove_approval(
            approved.held.roles[APPROVAL],
            [approved.key("approver/vad")],
            model=MODEL,
            version="1.0.0",
            now=NOON,
        )
        accepted = approved.take({APPROVAL: content})

        assert accepted.withdrawn == (Withdrawal(model=MODEL, version="1.0.0"),)
        assert accepted.approvals == ()

    def test_what_has_an_unreadable_plan_can_still_be_withdrawn(self, approved: Desk) -> None:
        def spoil(role: Targets) -> None:
            (target,) = role.targets.values()
            target.unrecognized_fields["custom"] = {"mailboat_plan": "of a later version"}

        # As if another version of this program had taken it.
        spoilt = approved.changed(APPROVAL, spoil)
        approved.held = replace(approved.held, roles={**approved.held.roles, APPROVAL: spoilt})

        accepted = approved.take(
            {APPROVAL: approved.changed(APPROVAL, lambda r: r.targets.clear())}
        )

        assert [each.version for each in accepted.withdrawn] == ["1.0.0"]

    def test_ci_may_take_a_release_off_its_list_and_put_it_back(self, approved: Desk) -> None:
        approved.take({RELEASE: approved.changed(RELEASE, lambda role: role.targets.clear())})
        again = approved.take({RELEASE: approved.releasing(V1)})

        assert again.releases == ()  # it was accepted long ago

    def test_more_signatures_than_needed_do_no_harm(self, desk: Desk) -> None:
        content = desk.changed(
            RELEASE, lambda role: role.targets.update([_listed(V1)]), "approver/asr", "ci/vad"
        )

        assert desk.take({RELEASE: content}, V1).releases == (V1,)


class TestWhoSigned:
    def test_another_fleets_submission_is_refused(self, desk: Desk) -> None:
        judged = desk.judge({RELEASE: desk.releasing(V1)}, V1, fleet="other")

        assert code_of(judged) == "E-FLEET"

    @pytest.mark.parametrize("key", ["approver/vad", "ci/asr", "offline/root", "offline/targets"])
    def test_a_release_is_signed_by_its_pipeline_and_by_nobody_else(
        self, desk: Desk, key: str
    ) -> None:
        content = desk.changed(RELEASE, lambda role: role.targets.update([_listed(V1)]), key)

        assert code_of(desk.judge({RELEASE: content}, V1)) == "E-SIGNATURE"

    @pytest.mark.parametrize("key", ["ci/vad", "approver/asr", "controller/keys/director"])
    def test_an_approval_is_signed_by_its_approvers_and_by_nobody_else(
        self, released: Desk, key: str
    ) -> None:
        content = released.changed(APPROVAL, lambda _role: None, key)

        assert code_of(released.judge({APPROVAL: content})) == "E-SIGNATURE"

    def test_a_role_without_any_signature_is_refused(self, desk: Desk) -> None:
        content = json.loads(desk.releasing(V1))
        content["signatures"] = []

        assert code_of(desk.judge({RELEASE: json.dumps(content).encode()}, V1)) == "E-SIGNATURE"

    def test_a_role_altered_after_it_was_signed_is_refused(self, desk: Desk) -> None:
        content = desk.releasing(V1).replace(b"release/vad/1.0.0", b"release/vad/1.0.1")

        assert code_of(desk.judge({RELEASE: content}, V1)) == "E-SIGNATURE"

    def test_one_approver_of_two_is_not_enough_and_neither_is_one_twice(
        self, tmp_path: Path
    ) -> None:
        quorum = Quorum(threshold=2, keys=3)
        desk = Desk(TrustFleet(tmp_path / "keys", now=NOON, approval=quorum))
        desk.take({RELEASE: desk.releasing(V1)}, V1)

        def signed_by(*keys: str) -> bytes:
            return desk.changed(APPROVAL, lambda _role: None, *keys)

        once = signed_by("approver/vad-1")
        doubled = json.loads(once)
        doubled["signatures"] *= 2
        assert code_of(desk.judge({APPROVAL: once})) == "E-THRESHOLD"
        judged = desk.judge({APPROVAL: json.dumps(doubled).encode()})
        assert code_of(judged) == "E-PAYLOAD-MALFORMED"
        assert code_of(desk.judge({APPROVAL: signed_by("approver/vad-1", "ci/vad")})) == (
            "E-THRESHOLD"
        )
        desk.take({APPROVAL: signed_by("approver/vad-1", "approver/vad-3")})

    @pytest.mark.parametrize("role", ["targets", "snapshot", "timestamp", "root", "director"])
    def test_roles_above_and_beside_cannot_be_submitted(self, desk: Desk, role: str) -> None:
        content = desk.fleet.roles.get(role, desk.fleet.factory_root)

        assert code_of(desk.judge({role: content})) == "E-ROLE-UNKNOWN"

    @pytest.mark.parametrize("role", ["release-nobody", "approval-nobody", "vad"])
    def test_a_role_that_no_ceremony_made_is_refused(self, desk: Desk, role: str) -> None:
        assert code_of(desk.judge({role: desk.releasing(V1)}, V1)) == "E-ROLE-UNKNOWN"

    def test_one_models_role_does_not_pass_for_anothers(self, desk: Desk) -> None:
        assert code_of(desk.judge({"release-asr": desk.releasing(V1)}, V1)) == "E-SIGNATURE"

    @pytest.mark.parametrize("kind", ["root", "snapshot", "timestamp"])
    def test_metadata_of_another_type_is_refused_though_the_key_is_right(
        self, desk: Desk, kind: str
    ) -> None:
        original = desk.fleet.factory_root if kind == "root" else desk.fleet.roles[kind]
        other = Metadata.from_bytes(original)
        other.signed.version = 2
        other.signatures.clear()
        other.sign(desk.key("ci/vad"))

        assert code_of(desk.judge({RELEASE: other.to_bytes()})) == "E-ROLE-SHAPE"


class TestWhatIsARole:
    @pytest.mark.parametrize(
        "garbage",
        [
            b"",
            b"\x00\xff\xfe",
            b"null",
            b"[]",
            b"{}",
            b'{"signed": {}, "signatures": []}',
            b"[" * 100_000,
            b'{"signed":' + b"9" * 5000 + b"}",
        ],
    )
    def test_garbage_is_refused(self, desk: Desk, garbage: bytes) -> None:
        assert code_of(desk.judge({RELEASE: garbage})) == "E-PAYLOAD-MALFORMED"

    @pytest.mark.parametrize("number", ["1e999", "-1", "1.5", '"2"', "null", "[2]", "0"])
    def test_a_version_that_is_no_whole_number_is_refused(self, desk: Desk, number: str) -> None:
        content = desk.releasing(V1).replace(b'"version":2', b'"version":' + number.encode())

        assert code_of(desk.judge({RELEASE: content}, V1)) in {"E-PAYLOAD-MALFORMED", "E-SIGNATURE"}

    @pytest.mark.parametrize("ahead", [0, 2, 10**30, 10**4000])
    def test_a_version_other_than_the_next_has_to_be_rebased(self, desk: Desk, ahead: int) -> None:
        content = desk.changed(RELEASE, lambda _role: None, by=ahead)

        assert code_of(desk.judge({RELEASE: content})) == "E-REBASE"

    def test_a_role_that_was_taken_cannot_come_again(self, approved: Desk) -> None:
        replayed = approved.held.roles[APPROVAL]
        approved.take({APPROVAL: approved.changed(APPROVAL, lambda role: role.targets.clear())})

        assert code_of(approved.judge({APPROVAL: replayed})) == "E-REBASE"

    def test_two_pipelines_at_once_the_slower_rebases(self, desk: Desk) -> None:
        other = document("2.0.0")
        slower = desk.releasing(other)
        desk.take({RELEASE: desk.releasing(V1)}, V1)

        assert code_of(desk.judge({RELEASE: slower}, other)) == "E-REBASE"
        desk.take({RELEASE: desk.releasing(other)}, other)

    def test_a_role_that_delegates_further_is_refused(self, desk: Desk) -> None:
        key = desk.key("ci/vad").public_key

        def delegate(role: Targets) -> None:
            own = DelegatedRole("more", [key.keyid], 1, terminating=False, paths=["*"])
            role.delegations = Delegations({key.keyid: key}, {"more": own})

        assert code_of(desk.judge({RELEASE: desk.changed(RELEASE, delegate)})) == "E-ROLE-SHAPE"

    def test_a_role_lists_so_many_targets_and_not_one_more(self, desk: Desk) -> None:
        path, target = _listed(V1)

        def listing(count: int) -> bytes:
            # Held already, so that only their number is looked at.
            names = [f"{path}-{number}" for number in range(count)]
            full = desk.changed(
                RELEASE, lambda role: role.targets.update(dict.fromkeys(names, target))
            )
            desk.held = replace(desk.held, roles={**desk.held.roles, RELEASE: full})
            return desk.changed(RELEASE, lambda _role: None)

        assert isinstance(desk.judge({RELEASE: listing(TARGETS_PER_ROLE_MAX)}), Accepted)
        assert code_of(desk.judge({RELEASE: listing(TARGETS_PER_ROLE_MAX + 1)})) == "E-ROLE-SHAPE"

    def test_a_role_longer_than_devices_read_is_refused(self, desk: Desk) -> None:
        def padded(length: int) -> bytes:
            return desk.changed(
                RELEASE, lambda role: role.unrecognized_fields.update({"note": "x" * length})
            )

        room = ROLE_BYTES_MAX - len(padded(0))
        assert isinstance(desk.judge({RELEASE: padded(room)}), Accepted)
        assert code_of(desk.judge({RELEASE: padded(room + 1)})) == "E-ROLE-SHAPE"

    def test_a_role_that_has_expired_is_refused(self, desk: Desk) -> None:
        def ending(at: datetime) -> bytes:
            return desk.changed(RELEASE, lambda role: setattr(role, "expires", at))

        assert code_of(desk.judge({RELEASE: ending(NOON)})) == "E-ROLE-EXPIRED"
        assert isinstance(desk.judge({RELEASE: ending(NOON + timedelta(seconds=1))}), Accepted)

    def test_what_nobody_signed_does_not_travel_along(self, desk: Desk) -> None:
        """A stolen broker could fill up what a pipeline hands in, until no manifest takes it."""
        content = desk.changed(RELEASE, lambda _role: None)
        parsed = json.loads(content)
        strange = {"keyid": "0" * 64, "sig": "00" * 100_000}
        for more in (
            {"x-pad": "a" * 100_000},
            {"signatures": [*parsed["signatures"], strange]},
        ):
            assert code_of(desk.judge({RELEASE: json.dumps(parsed | more).encode()})) == (
                "E-ROLE-SHAPE"
            )
        assert code_of(desk.judge({RELEASE: content + b" " * 100_000})) == "E-ROLE-SHAPE"
        readable = json.dumps(parsed, indent=2).encode()
        assert isinstance(desk.judge({RELEASE: readable}), Accepted)

    def test_an_approval_that_lasts_for_longer_than_one_may_is_refused(self, desk: Desk) -> None:
        def ending(role: str, after: timedelta) -> bytes:
            return desk.changed(role, lambda signed: setattr(signed, "expires", NOON + after))

        month = timedelta(days=30, minutes=5)
        assert isinstance(desk.judge({APPROVAL: ending(APPROVAL, month)}), Accepted)
        longer = ending(APPROVAL, month + timedelta(seconds=1))
        assert code_of(desk.judge({APPROVAL: longer})) == "E-ROLE-SHAPE"
        assert isinstance(desk.judge({RELEASE: ending(RELEASE, timedelta(days=365))}), Accepted)

    def test_no_key_lifts_the_clock_floor_of_devices_into_the_future(self, desk: Desk) -> None:
        def issued(at: datetime) -> bytes:
            return desk.changed(RELEASE, lambda role: roles.stamp(role, at))

        latest = NOON + ISSUED_AHEAD_MAX
        assert isinstance(desk.judge({RELEASE: issued(latest)}), Accepted)
        assert code_of(desk.judge({RELEASE: issued(latest + timedelta(seconds=1))})) == (
            "E-ROLE-ISSUED"
        )

    @pytest.mark.parametrize("text", ["99991231", "9999-12-31", 5, ["2026-06-01T12:00:00Z"], ""])
    def test_a_time_of_signing_that_devices_might_read_otherwise_is_refused(
        self, desk: Desk, text: object
    ) -> None:
        content = desk.changed(
            RELEASE, lambda role: role.unrecognized_fields.update({roles.ISSUED_FIELD: text})
        )

        assert code_of(desk.judge({RELEASE: content})) == "E-ROLE-SHAPE"


def with_hashes(hashes: dict[str, str]) -> Callable[[Targets], None]:
    def change(role: Targets) -> None:
        path, target = _listed(V1)
        target.hashes = hashes
        role.targets[path] = target

    return change


V1_DIGEST = document_digest(V1.canonical_bytes())


class TestDigests:
    @pytest.mark.parametrize(
        "hashes",
        [
            {"sha512": "ab" * 64},
            {"sha256": ""},
            {"sha256": V1_DIGEST.upper()},
            {"sha256": V1_DIGEST[:-1]},
            {"sha256": V1_DIGEST + "\n"},
            {"SHA256": V1_DIGEST},
        ],
    )
    def test_a_release_without_a_proper_sha256_is_refused(
        self, desk: Desk, hashes: dict[str, str]
    ) -> None:
        content = desk.changed(RELEASE, with_hashes(hashes))

        assert code_of(desk.judge({RELEASE: content}, V1)) == "E-ROLE-SHAPE"

    def test_a_target_without_any_hash_is_refused(self, desk: Desk) -> None:
        content = json.loads(desk.releasing(V1))
        (target,) = content["signed"]["targets"].values()
        target["hashes"] = {}

        judged = desk.judge({RELEASE: json.dumps(content).encode()}, V1)
        assert code_of(judged) == "E-PAYLOAD-MALFORMED"

    def test_an_approval_without_a_proper_sha256_is_refused(self, approved: Desk) -> None:
        def change(role: Targets) -> None:
            (target,) = role.targets.values()
            target.hashes = {"sha256": V1_DIGEST.upper()}

        content = approved.changed(APPROVAL, change)
        assert code_of(approved.judge({APPROVAL: content})) == "E-ROLE-SHAPE"


class TestDocuments:
    def test_a_release_without_its_document_is_refused(self, desk: Desk) -> None:
        assert code_of(desk.judge({RELEASE: desk.releasing(V1)})) == "E-DOCUMENT-MISSING"

    def test_an_altered_document_under_the_right_digest_is_refused(self, desk: Desk) -> None:
        altered = V1.canonical_bytes().replace(b'"security_version":0', b'"security_version":9')
        submission = Submission(
            fleet=FLEET, roles={RELEASE: desk.releasing(V1)}, documents={V1_DIGEST: altered}
        )

        judged = judge_submission(submission, desk.held, has_everything, NOON)
        assert code_of(judged) == "E-DOCUMENT-MISSING"

    @pytest.mark.parametrize("length", [0, 1, 10**30])
    def test_a_document_of_another_length_than_listed_is_refused(
        self, desk: Desk, length: int
    ) -> None:
        def change(role: Targets) -> None:
            path, target = _listed(V1)
            target.length = length
            role.targets[path] = target

        content = desk.changed(RELEASE, change)
        assert code_of(desk.judge({RELEASE: content}, V1)) == "E-DOCUMENT-MISSING"

    @pytest.mark.parametrize(
        "path",
        [
            "release/vad/1.0.1.json",
            "release/asr/1.0.0.json",
            "release/vad/1.0.0",
            "approval/vad/1.0.0.json",
            "../../etc/passwd",
            "",
        ],
    )
    def test_a_document_stands_under_its_own_path_only(self, desk: Desk, path: str) -> None:
        content = V1.canonical_bytes()
        target = TargetFile.from_data(path, content, ["sha256"])
        role = desk.changed(RELEASE, lambda role: role.targets.update({path: target}))

        assert code_of(desk.judge({RELEASE: role}, V1)) == "E-PATH"

    def test_a_pipeline_releases_its_own_model_only(self, desk: Desk) -> None:
        foreign = V1.model_copy(update={"model": "asr"})

        assert code_of(desk.judge({RELEASE: desk.releasing(foreign)}, foreign)) == "E-PATH"

    def test_a_document_that_is_not_canonical_is_refused(self, desk: Desk) -> None:
        content = json.dumps(json.loads(V1.canonical_bytes()), indent=1).encode()
        assert code_of(_release_bytes(desk, content)) == "E-CANONICAL"

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"\xff\x00",
            b"{}",
            b"[" * 10_000,
            V1.canonical_bytes().replace(
                b'"security_version":0', b'"security_version":' + b"9" * 30
            ),
            V1.canonical_bytes().replace(b'"length":4', b'"length":-4'),
            V1.canonical_bytes().replace(b'"length":4', b'"length":1e300'),
            V1.canonical_bytes().replace(b'"version":"1.0.0"', b'"version":"1.0"'),
            V1.canonical_bytes().replace(b'"description":""', b'"description":"","more":1'),
        ],
    )
    def test_what_is_no_release_document_is_refused(self, desk: Desk, content: bytes) -> None:
        assert code_of(_release_bytes(desk, content)) == "E-PAYLOAD-MALFORMED"

    def test_an_oversize_document_is_refused(self, desk: Desk) -> None:
        content = V1.canonical_bytes() + b" " * (256 * 1024)

        assert code_of(_release_bytes(desk, content)) == "E-PAYLOAD-TOO-LARGE"

    def test_a_reason_never_quotes_more_than_fits(self, desk: Desk) -> None:
        path = "release/vad/" + "x" * 100_000
        target = TargetFile.from_data(path, V1.canonical_bytes(), ["sha256"])
        role = desk.changed(RELEASE, lambda role: role.targets.update({path: target}))

        judged = desk.judge({RELEASE: role}, V1)
        assert code_of(judged) == "E-PATH"
        assert isinstance(judged, Rejected)
        assert [len(reason) for reason in judged.reasons] == [REASON_CHARS_MAX]


def _release_bytes(desk: Desk, content: bytes) -> Accepted | Rejected:
    path = "release/vad/1.0.0.json"
    target = TargetFile.from_data(path, content, ["sha256"])
    role = desk.changed(RELEASE, lambda role: role.targets.update({path: target}))
    return desk.judge({RELEASE: role}, content)


class TestVersionsNeverChange:
    CHANGED = V1.model_copy(update={"description": "quietly exchanged"})

    def test_a_released_version_keeps_its_contents(self, released: Desk) -> None:
        judged = released.judge({RELEASE: released.releasing(self.CHANGED)}, self.CHANGED)

        assert code_of(judged) == "E-IMMUTABLE"

    def test_also_by_way_of_taking_it_off_the_list_first(self, released: Desk) -> None:
        released.take({RELEASE: released.changed(RELEASE, lambda role: role.targets.clear())})
        judged = released.judge({RELEASE: released.releasing(self.CHANGED)}, self.CHANGED)

        assert code_of(judged) == "E-IMMUTABLE"

    def test_ci_cannot_withdraw_a_release_by_listing_another_length(self, approved: Desk) -> None:
        def stretch(role: Targets) -> None:
            (target,) = role.targets.values()
            target.length += 1

        content = approved.changed(RELEASE, stretch)
        assert code_of(approved.judge({RELEASE: content})) == "E-IMMUTABLE"


class TestInterfaces:
    def _release(self, desk: Desk, *versions: str) -> None:
        for version in versions:
            new = document(version)
            desk.take({RELEASE: desk.releasing(new)}, new)

    def _judge(self, desk: Desk, version: str) -> Accepted | Rejected:
        new = document(version, interface=OTHER_INTERFACE)
        return desk.judge({RELEASE: desk.releasing(new)}, new)

    @pytest.mark.parametrize("version", ["1.0.1", "1.3.0", "1.2.0-rc.1", "1.0.0-rc.1", "1.99.0"])
    def test_a_changed_interface_within_a_major_version_is_refused(
        self, desk: Desk, version: str
    ) -> None:
        self._release(desk, "1.0.0", "1.2.0")

        assert code_of(self._judge(desk, version)) == "E-SEMVER"

    @pytest.mark.parametrize("version", ["2.0.0", "2.0.0-rc.1", "10.0.0", "0.9.0"])
    def test_another_major_version_may_change_it(self, desk: Desk, version: str) -> None:
        self._release(desk, "1.0.0", "1.2.0")

        assert isinstance(self._judge(desk, version), Accepted)

    @pytest.mark.parametrize("version", ["2.0.0", "2.0.0-rc.10", "2.0.0-rc.2", "2.1.0-a"])
    def test_a_release_agrees_with_the_pre_releases_of_its_major_version(
        self, desk: Desk, version: str
    ) -> None:
        self._release(desk, "1.0.0", "2.0.0-rc.9")

        assert code_of(self._judge(desk, version)) == "E-SEMVER"

    def test_an_older_version_released_late_agrees_with_the_newer_ones(self, desk: Desk) -> None:
        self._release(desk, "1.2.0")

        assert code_of(self._judge(desk, "1.1.0")) == "E-SEMVER"

    def test_two_releases_of_one_submission_agree_too(self, desk: Desk) -> None:
        both = (V1, document("1.0.1", interface=OTHER_INTERFACE))

        assert code_of(desk.judge({RELEASE: desk.releasing(*both)}, *both)) == "E-SEMVER"

    def test_the_order_of_tensors_is_no_change(self, desk: Desk) -> None:
        inputs = [{"name": name, "dtype": "float32", "shape": [1]} for name in "ab"]
        outputs = OTHER_INTERFACE["outputs"]
        first = document("1.0.0", interface={"inputs": inputs, "outputs": outputs})
        second = document("1.0.1", interface={"inputs": inputs[::-1], "outputs": outputs})
        desk.take({RELEASE: desk.releasing(first)}, first)

        desk.take({RELEASE: desk.releasing(second)}, second)


class TestApprovals:
    def test_of_what_nobody_released_are_refused(self, desk: Desk) -> None:
        assert code_of(desk.judge({APPROVAL: desk.approving(V1)})) == "E-NOT-RELEASED"

    def test_of_other_contents_than_released_are_refused(self, released: Desk) -> None:
        other = V1.model_copy(update={"description": "not the one that was tested"})

        assert code_of(released.judge({APPROVAL: released.approving(other)})) == "E-NOT-RELEASED"

    def test_of_another_length_than_released_are_refused(self, released: Desk) -> None:
        def change(role: Targets) -> None:
            target = TargetFile(len(V1.canonical_bytes()) + 1, {"sha256": V1_DIGEST}, path)
            target.unrecognized_fields["custom"] = EVERYBODY.to_custom()
            role.targets[path] = target

        path = "approval/vad/1.0.0.json"
        content = released.changed(APPROVAL, change)
        assert code_of(released.judge({APPROVAL: content})) == "E-NOT-RELEASED"

    def test_of_what_is_taken_off_the_list_at_once_are_refused(self, released: Desk) -> None:
        offered = {
            RELEASE: released.changed(RELEASE, lambda role: role.targets.clear()),
            APPROVAL: released.approving(V1),
        }

        assert code_of(released.judge(offered)) == "E-NOT-RELEASED"

    @pytest.mark.parametrize(
        "path",
        ["release/vad/1.0.0.json", "approval/asr/1.0.0.json", "approval/vad/1.0.0", "1.0.0.json"],
    )
    def test_under_another_path_are_refused(self, released: Desk, path: str) -> None:
        target = TargetFile.from_data(path, V1.canonical_bytes(), ["sha256"])
        target.unrecognized_fields["custom"] = EVERYBODY.to_custom()
        content = released.changed(APPROVAL, lambda role: role.targets.update({path: target}))

        assert code_of(released.judge({APPROVAL: content})) == "E-PATH"

    @pytest.mark.parametrize(
        "custom",
        [
            None,
            {},
            [],
            "plan",
            {"mailboat_plan": None},
            {"mailboat_plan": {"rollout": "all", "waves": []}},
            {"mailboat_plan": {"rollout": "No Label", "waves": [{}]}},
            {"mailboat_plan": {"rollout": "all", "waves": [{"cap_ppm": 1_000_001}]}},
            {"mailboat_plan": {"rollout": "all", "waves": [{"count": -1}]}},
            {"mailboat_plan": {"rollout": "all", "waves": [{}] * 17}},
            {"mailboat_plan": {"rollout": "all", "waves": [{"pilots": ["+/#"]}]}},
        ],
    )
    def test_without_a_readable_plan_are_refused(self, released: Desk, custom: object) -> None:
        def change(role: Targets) -> None:
            path = "approval/vad/1.0.0.json"
            target = TargetFile.from_data(path, V1.canonical_bytes(), ["sha256"])
            if custom is not None:
                target.unrecognized_fields["custom"] = custom
            role.targets[path] = target

        content = released.changed(APPROVAL, change)
        assert code_of(released.judge({APPROVAL: content})) == "E-SIGNATURE"


class TestArtifacts:
    def test_missing_ones_are_listed_and_the_same_submission_may_come_again(
        self, desk: Desk
    ) -> None:
        offered = {RELEASE: desk.releasing(V1), APPROVAL: desk.approving(V1)}
        judged = desk.judge(offered, V1, has_artifact=lambda _file: False)

        assert isinstance(judged, Rejected)
        assert (judged.code, judged.retry) == ("E-ARTIFACT-MISSING", True)
        assert judged.missing_artifacts == ("ab" * 32,)
        desk.take(offered, V1)

    def test_nobody_asks_for_those_of_a_release_that_was_taken(self, approved: Desk) -> None:
        offered = {APPROVAL: approved.approving(V1, LATER)}
        judged = approved.judge(offered, V1, has_artifact=lambda _file: False)

        assert isinstance(judged, Accepted)

    def test_a_file_listed_with_two_lengths_is_missing_with_one(self, desk: Desk) -> None:
        lying = _of_files(["ab" * 32, "ab" * 32], lengths=[5, 4])
        judged = desk.judge(
            {RELEASE: desk.releasing(lying)}, lying, has_artifact=lambda file: file.length == 4
        )

        assert code_of(judged) == "E-ARTIFACT-MISSING"

    def test_only_so_many_are_listed(self, desk: Desk) -> None:
        digests = [f"{number:064x}" for number in range(MISSING_LISTED_MAX + 1)]
        many = _of_files(digests)
        judged = desk.judge({RELEASE: desk.releasing(many)}, many, has_artifact=lambda _file: False)

        assert isinstance(judged, Rejected)
        assert len(judged.missing_artifacts) == MISSING_LISTED_MAX
        assert str(len(digests)) in judged.reasons[0]


def _of_files(digests: Iterable[str], lengths: Iterable[int] | None = None) -> ReleaseDocument:
    """A release of as few variants as these files need."""
    digests = list(digests)
    files = [
        {"path": f"file-{number}", "role": "other", "sha256": digest, "length": length}
        for number, (digest, length) in enumerate(
            zip(digests, lengths or [4] * len(digests), strict=True)
        )
    ]
    (variant,) = V1.model_dump(mode="json")["variants"]
    variants = []
    for start in range(0, len(files), FILES_MAX):
        own = files[start : start + FILES_MAX]
        own[0] |= {"role": "model"}
        variants.append(variant | {"hardware_classes": [f"class-{start}"], "files": own})
    return document("1.0.0", variants=variants)

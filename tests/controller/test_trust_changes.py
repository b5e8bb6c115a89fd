"""Asking for a change of keys, and the file that travels between its signers."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tuf.api.metadata import Metadata, Root, Targets

from mailboat_controller.authority import changes, pending, roles
from mailboat_controller.authority.ceremony import Ceremony, Quorum, hold
from mailboat_controller.authority.changes import KEYS_PER_ROLE_MAX, Draft
from mailboat_controller.authority.keys import create_key
from mailboat_controller.authority.pending import (
    KeyNotNamed,
    Pending,
    PendingEdited,
    read_pending,
    write_pending,
)
from mailboat_controller.trust.role_files import read_roles
from mailboat_schemas.errors import (
    ConfigurationInvalid,
    Conflict,
    MalformedPayload,
    NotFound,
)
from signing_room import SigningRoom

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
LATER = NOW + timedelta(days=20)
TWO_OF_THREE, ONE = Quorum(threshold=2, keys=3), Quorum(threshold=1, keys=1)


@dataclass
class Room(SigningRoom):
    held: dict[str, bytes]
    directory: Path

    def ask(self, change: Callable[[Draft], object]) -> Pending:
        return self.pending(self.held, change)

    def file(self, change: Callable[[Draft], object]) -> Path:
        path = self.directory / "pending.json"
        write_pending(path, self.ask(change))
        return path


@pytest.fixture(scope="module")
def ceremony(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root and vad's approval are 2 of 3, targets is 1 of 1."""
    directory = tmp_path_factory.mktemp("ceremony") / "trust"
    wanted = Ceremony(models=("vad",), root=TWO_OF_THREE, targets=ONE, approval=TWO_OF_THREE)
    hold(wanted, directory, NOW)
    return directory


@pytest.fixture
def room(ceremony: Path, tmp_path: Path) -> Room:
    return Room(keys=ceremony, now=LATER, held=read_roles(ceremony), directory=tmp_path)


def key_of(tmp_path: Path, name: str = "carol") -> Any:
    return create_key(tmp_path / f"{name}.pem", name=name)


def root_of(content: bytes) -> Root:
    return Metadata[Root].from_bytes(content).signed


def targets_of(content: bytes) -> Targets:
    return Metadata[Targets].from_bytes(content).signed


def keyids(role: str, signed: Root | Targets) -> list[str]:
    return list(signed.get_delegated_role(role).keyids)


class TestDraft:
    def test_a_key_added_to_root_needs_the_old_and_the_new_quorum(
        self, room: Room, tmp_path: Path
    ) -> None:
        carol = key_of(tmp_path)
        change = room.ask(lambda draft: changes.add_key(draft, "root", carol.public_key, 3))

        assert [(each.whose, each.threshold) for each in change.requirements()] == [
            ("old", 2),
            ("new", 3),
        ]
        change.sign(room.key("offline/root-1"))
        change.sign(room.key("offline/root-2"))
        assert len(change.missing()) == 1
        change.sign(carol)
        root = root_of(change.submission()["root"])
        assert (root.version, root.expires) == (2, roles.expiry(LATER, roles.ROOT_VALID))
        assert len(keyids("root", root)) == 4

    def test_a_removed_key_is_gone_from_the_metadata(self, room: Room) -> None:
        lost = room.key("offline/root-3").public_key.keyid
        change = room.ask(lambda draft: changes.remove_key(draft, "root", lost[:8]))

        root = change.roles["root"].signed
        assert lost not in root.keys
        assert lost not in keyids("root", root)

    def test_one_signature_too_few_stays_unfinished(self, room: Room) -> None:
        lost = room.key("offline/root-3").public_key.keyid
        change = room.ask(lambda draft: changes.remove_key(draft, "root", lost))
        change.sign(room.key("offline/root-1"))

        with pytest.raises(ConfigurationInvalid, match="1 more of root 2"):
            change.submission()

    def test_an_approver_who_goes_leaves_a_role_that_still_has_enough_signatures(
        self, room: Room
    ) -> None:
        lost = room.key("approver/vad-3").public_key.keyid
        change = room.ask(lambda draft: changes.remove_key(draft, "approval-vad", lost))

        assert list(change.roles) == ["targets"]

    def test_new_approvers_sign_the_old_approvals_again(self, room: Room, tmp_path: Path) -> None:
        """Else the role in force would be signed by nobody who counts, and every device stuck."""
        carol = key_of(tmp_path)
        change = room.ask(lambda draft: draft.set_keys("approval-vad", [carol.public_key], 1))

        assert sorted(change.roles) == ["approval-vad", "targets"]
        assert change.sign(carol) == ["approval-vad"]
        assert change.sign(room.key("offline/targets")) == ["targets"]
        assert targets_of(change.submission()["approval-vad"]).version == 2

    def test_new_targets_keys_sign_targets_again(self, room: Room, tmp_path: Path) -> None:
        carol = key_of(tmp_path)
        change = room.ask(lambda draft: draft.set_keys("targets", [carol.public_key], 1))

        assert sorted(change.roles) == ["root", "targets"]
        for signer in (room.key("offline/root-1"), room.key("offline/root-2"), carol):
            change.sign(signer)
        assert sorted(change.submission()) == ["root", "targets"]

    def test_all_online_keys_are_rotated_in_one_file(self, room: Room, tmp_path: Path) -> None:
        new = {role: key_of(tmp_path, role) for role in ("snapshot", "timestamp", "director")}

        def rotate(draft: Draft) -> None:
            for role, signer in new.items():
                draft.set_keys(role, [signer.public_key])

        change = room.ask(rotate)
        assert sorted(change.roles) == ["root", "targets"]
        for role, signer in new.items():
            named = change.roles["targets" if role == "director" else "root"].signed
            assert keyids(role, named) == [signer.public_key.keyid]

    def test_a_new_model_begins_with_two_empty_roles(self, room: Room, tmp_path: Path) -> None:
        ci, approver = key_of(tmp_path, "asr pipeline"), key_of(tmp_path, "asr approver")
        change = room.ask(
            lambda draft: draft.add_model(
                "asr",
                release_keys=[ci.public_key],
                approval_keys=[approver.public_key],
                threshold=1,
            )
        )

        assert sorted(change.roles) == ["approval-asr", "release-asr", "targets"]
        assert change.sign(ci) == ["release-asr"]
        assert change.sign(approver) == ["approval-asr"]
        change.sign(room.key("offline/targets"))
        signed = change.submission()
        assert (
            targets_of(signed["release-asr"]).version,
            targets_of(signed["targets"]).version,
        ) == (
            1,
            2,
        )

    @pytest.mark.parametrize("role", ["root", "targets", "approval-vad", "release-vad", "policy"])
    def test_renewing_changes_version_and_expiry_only(self, room: Room, role: str) -> None:
        change = room.ask(lambda draft: draft.renew(role))

        (metadata,) = change.roles.values()
        before = json.loads(room.held[role])["signed"]
        after = metadata.to_dict()["signed"]
        different = {name for name in before if before[name] != after[name]}
        assert different == {"version", "expires", "x-mailboat-issued"}
        assert metadata.signed.expires == roles.expiry(LATER, roles.valid_for(role))

    @pytest.mark.parametrize("role", ["snapshot", "timestamp", "director"])
    def test_what_the_controller_signs_is_not_renewed_by_hand(self, room: Room, role: str) -> None:
        with pytest.raises(ConfigurationInvalid):
            room.ask(lambda draft: draft.renew(role))

    @pytest.mark.parametrize("role", ["approval-asr", "nobody", ""])
    def test_a_role_that_is_not_there_is_said(self, room: Room, role: str) -> None:
        with pytest.raises(NotFound):
            room.ask(lambda draft: draft.renew(role))

    @pytest.mark.parametrize(("keys", "threshold"), [(0, 1), (1, 2), (2, 0), (17, 1)])
    def test_a_quorum_that_cannot_be_is_refused(
        self, room: Room, tmp_path: Path, keys: int, threshold: int
    ) -> None:
        assert KEYS_PER_ROLE_MAX == 16
        new = [key_of(tmp_path, f"k{number}").public_key for number in range(keys)]

        with pytest.raises(ConfigurationInvalid):
            room.ask(lambda draft: draft.set_keys("root", new, threshold))

    def test_the_director_has_one_key(self, room: Room, tmp_path: Path) -> None:
        carol = key_of(tmp_path)
        with pytest.raises(ConfigurationInvalid):
            room.ask(lambda draft: changes.add_key(draft, "director", carol.public_key))

    def test_the_same_key_is_not_added_twice(self, room: Room) -> None:
        key = room.key("offline/root-1").public_key
        with pytest.raises(Conflict):
            room.ask(lambda draft: changes.add_key(draft, "root", key))
        with pytest.raises(ConfigurationInvalid, match="twice"):
            room.ask(lambda draft: draft.set_keys("root", [key, key], 2))

    @pytest.mark.parametrize(
        ("keyid", "error"), [("0" * 64, NotFound), ("abc", ConfigurationInvalid)]
    )
    def test_a_key_that_is_not_there_is_not_removed(
        self, room: Room, keyid: str, error: type[Exception]
    ) -> None:
        with pytest.raises(error):
            room.ask(lambda draft: changes.remove_key(draft, "root", keyid))

    def test_a_model_that_is_there_is_not_added(self, room: Room, tmp_path: Path) -> None:
        key = [key_of(tmp_path).public_key]
        for model, error in (("vad", Conflict), ("Vad", ConfigurationInvalid)):
            with pytest.raises(error):
                room.ask(
                    lambda draft, model=model: draft.add_model(
                        model, release_keys=key, approval_keys=key, threshold=1
                    )
                )


class TestSigning:
    def test_travels_as_a_file_from_signer_to_signer(self, room: Room, tmp_path: Path) -> None:
        carol = key_of(tmp_path)
        path = room.file(lambda draft: changes.add_key(draft, "root", carol.public_key))
        for name in ("offline/root-3", "offline/root-1"):
            found = read_pending(path)
            found.sign(room.key(name))
            write_pending(path, found)

        finished = read_pending(path)
        assert [label.partition(" (")[0] for label in finished.signers()] == ["root 1", "root 3"]
        assert finished.missing() == []
        assert finished.submission().keys() == {"root"}

    def test_says_in_words_what_would_change(self, room: Room, tmp_path: Path) -> None:
        carol = key_of(tmp_path)
        lost = room.key("approver/vad-1").public_key.keyid

        def change(draft: Draft) -> None:
            changes.remove_key(draft, "approval-vad", lost)
            changes.add_key(draft, "approval-vad", carol.public_key, 1)

        path = room.file(change)
        assert json.loads(path.read_text())["changes"] == [
            "targets version 1 becomes 2, valid until 2027-06-21.",
            f"carol ({carol.public_key.keyid[:8]}) may sign approval-vad from now on.",
            f"vad approver 1 ({lost[:8]}) may not sign approval-vad any more.",
            "approval-vad takes 1 of 3 keys, it took 2 of 3.",
        ]
        assert f"approval-vad: 1 of carol ({carol.public_key.keyid[:8]})" in "".join(
            read_pending(path).quorums()
        )

    def test_a_key_that_no_role_names_is_refused(self, room: Room) -> None:
        change = room.ask(lambda draft: draft.renew("root"))

        with pytest.raises(KeyNotNamed) as refused:
            change.sign(room.key("ci/vad"))
        assert refused.value.code == "E-KEY-NOT-NAMED"
        assert change.roles["root"].signatures == {}

    def test_the_same_key_twice_counts_once(self, room: Room) -> None:
        change = room.ask(lambda draft: draft.renew("root"))
        change.sign(room.key("offline/root-1"))

        with pytest.raises(Conflict, match="counts once"):
            change.sign(room.key("offline/root-1"))
        assert change.missing()

    @pytest.mark.parametrize(
        "edit",
        [
            lambda content: content["roles"]["root"]["signed"].update(version=3),
            lambda content: content["roles"]["root"]["signed"]["roles"]["root"].update(threshold=1),
            lambda content: content["roles"]["root"]["signed"].update(
                expires="2099-01-01T00:00:00Z"
            ),
            lambda content: content["changes"].pop(),
            lambda content: content["held"]["root"]["signed"].update(version=0),
            lambda content: content["held"]["root"]["signed"]["roles"]["root"].update(threshold=1),
            lambda content: content["roles"]["root"]["signatures"][0].update(sig="00" * 64),
            lambda content: content["held"].pop("root"),
            lambda content: content["held"]["root"]["signed"].update(
                {"x-mailboat-issued": "2020-01-01T00:00:00Z"}
            ),
        ],
    )
    def test_a_file_edited_after_the_first_signature_is_found_out(
        self, room: Room, edit: Callable[[dict[str, Any]], object]
    ) -> None:
        path = room.file(lambda draft: draft.renew("root"))
        found = read_pending(path)
        found.sign(room.key("offline/root-1"))
        write_pending(path, found)
        content = json.loads(path.read_text())
        edit(content)
        path.write_text(json.dumps(content))

        with pytest.raises((PendingEdited, MalformedPayload)) as refused:
            read_pending(path)
        assert refused.value.code in ("E-PENDING-EDITED", "E-PAYLOAD-MALFORMED")

    def test_words_that_follow_an_edit_do_not_hide_it_from_the_signature(self, room: Room) -> None:
        path = room.file(lambda draft: draft.renew("root"))
        found = read_pending(path)
        found.sign(room.key("offline/root-1"))
        found.roles["root"].signed.roles["root"].threshold = 1
        write_pending(path, found)  # with the words and missing signers that fit

        with pytest.raises(PendingEdited, match="changed after somebody had signed"):
            read_pending(path)

    def test_a_file_that_builds_on_a_root_of_its_own_is_found_out_by_the_signers_copy(
        self, room: Room, tmp_path: Path
    ) -> None:
        """Its words would say that nothing changes, where a stranger's key comes in."""
        mallory = key_of(tmp_path, "mallory")
        forged = root_of(room.held["root"])
        forged.add_key(mallory.public_key, "root")
        forged.roles["root"].threshold = 1
        room.held = {**room.held, "root": roles.sign(forged, [mallory])}
        change = room.ask(lambda draft: draft.renew("root"))
        assert change.changes() == ["root version 1 becomes 2, valid until 2028-06-20."]

        assert "mallory" in "".join(change.quorums())
        with pytest.raises(PendingEdited, match="does not build on the root"):
            change.require_root(read_roles(room.keys)["root"])
        room.ask(lambda draft: draft.renew("targets")).require_root(room.held["root"])

    @pytest.mark.parametrize(
        "content",
        [b"", b"{", b"[]", b"{}", b'"x"', b"\xff" * 9, b'{"mailboat_pending": 1}', b"[" * 100_000],
    )
    def test_what_is_no_pending_change_is_refused(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "pending.json").write_bytes(content)

        with pytest.raises(MalformedPayload):
            read_pending(tmp_path / "pending.json")

    @pytest.mark.parametrize("change", [{"mailboat_pending": 2}, {"roles": {}}])
    def test_another_format_is_refused(self, room: Room, change: dict[str, Any]) -> None:
        path = room.file(lambda draft: draft.renew("root"))
        path.write_text(json.dumps(json.loads(path.read_text()) | change))

        with pytest.raises((MalformedPayload, PendingEdited)):
            read_pending(path)

    def test_a_file_over_the_bound_is_not_read(
        self, room: Room, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = room.file(lambda draft: draft.renew("root"))
        monkeypatch.setattr(pending, "PENDING_BYTES_MAX", path.stat().st_size - 1)

        with pytest.raises(MalformedPayload, match="over"):
            read_pending(path)

    def test_a_missing_file_is_said(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationInvalid):
            read_pending(tmp_path / "nothing.json")


class TestRolesAsFiles:
    def test_the_newest_root_counts(self, room: Room, tmp_path: Path) -> None:
        place = tmp_path / "roles"
        place.mkdir()
        for name, content in room.held.items():
            (place / f"{'1.root' if name == 'root' else name}.json").write_bytes(content)
        second = root_of(room.held["root"])
        second.version = 2
        (place / "2.root.json").write_bytes(roles.sign(second, []))

        assert root_of(read_roles(place)["root"]).version == 2

    def test_an_empty_directory_is_said(self, tmp_path: Path) -> None:
        with pytest.raises(NotFound):
            read_roles(tmp_path)

    def test_a_file_that_is_no_metadata_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "targets.json").write_text("{}")

        with pytest.raises(ConfigurationInvalid, match=r"targets\.json"):
            read_roles(tmp_path)

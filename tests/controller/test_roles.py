"""Roles as the authority signs them: how long they last, what they say, what follows what."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root, Targets

from mailboat_controller.authority import roles
from mailboat_controller.authority.keys import create_key, load_key
from mailboat_schemas.errors import MalformedPayload, NotFound
from mailboat_schemas.trust import TrustView
from trust_fleet import EVERYBODY, MODEL, TrustFleet, document

NOON = datetime(2026, 6, 1, 12, 0, 0, 123456, tzinfo=UTC)
DOCUMENT = document("1.0.0").canonical_bytes()
EXPIRY = {
    "root": "2028-05-31T12:00:00Z",
    "targets": "2027-06-01T12:00:00Z",
    "release-vad": "2027-06-01T12:00:00Z",
    "approval-vad": "2026-07-01T12:00:00Z",
    "policy": "2027-06-01T12:00:00Z",
    "config": "2027-06-01T12:00:00Z",
    "snapshot": "2026-07-01T12:00:00Z",
    "timestamp": "2026-06-08T12:00:00Z",
}
ONLINE = ("snapshot", "timestamp")


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> TrustFleet:
    """As the ceremony left it; nothing here changes it."""
    return TrustFleet(tmp_path_factory.mktemp("trust") / "keys", now=NOON)


def signed(content: bytes) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(content)["signed"]
    return result


def every_role(fleet: TrustFleet) -> dict[str, dict[str, Any]]:
    return {name: signed(content) for name, content in fleet.roles.items()} | {
        "root": signed(fleet.factory_root)
    }


def ci(fleet: TrustFleet) -> CryptoSigner:
    return load_key(fleet.directory / "ci" / "vad.pem")


def approvers(fleet: TrustFleet) -> Iterable[CryptoSigner]:
    return [load_key(fleet.directory / "approver" / "vad.pem")]


def released(fleet: TrustFleet, version: str, now: datetime = NOON) -> bytes:
    return roles.add_release(
        fleet.roles["release-vad"],
        ci(fleet),
        model=MODEL,
        version=version,
        document=DOCUMENT,
        now=now,
    )


def approved(fleet: TrustFleet, version: str, now: datetime = NOON) -> bytes:
    return roles.add_approval(
        fleet.roles["approval-vad"],
        approvers(fleet),
        model=MODEL,
        version=version,
        document=DOCUMENT,
        plan=EVERYBODY.to_custom(),
        now=now,
    )


@pytest.mark.parametrize(("role", "expires"), EXPIRY.items())
def test_every_role_lasts_as_long_as_designed(first: TrustFleet, role: str, expires: str) -> None:
    assert every_role(first)[role]["expires"] == expires


def test_offline_roles_say_when_they_were_signed_and_online_ones_never_do(
    first: TrustFleet,
) -> None:
    issued = {name: role.get("x-mailboat-issued") for name, role in every_role(first).items()}

    assert issued == {name: None if name in ONLINE else "2026-06-01T12:00:00Z" for name in EXPIRY}


def test_what_the_controller_signs_later_does_not_say_it_either(first: TrustFleet) -> None:
    snapshot = first.online.sign_snapshot(first.roles["snapshot"], {}, now=NOON)
    timestamp = first.online.sign_timestamp(first.roles["timestamp"], snapshot, now=NOON)

    assert "x-mailboat-issued" not in signed(snapshot) | signed(timestamp)


def test_times_are_utc_whatever_the_signers_zone(first: TrustFleet) -> None:
    there = NOON.astimezone(timezone(timedelta(hours=14)))
    content = signed(approved(first, "1.0.0", there))

    assert content["x-mailboat-issued"] == "2026-06-01T12:00:00Z"
    assert content["expires"] == "2026-07-01T12:00:00Z"


def test_a_release_is_listed_with_its_digest_and_length_and_nothing_else(
    first: TrustFleet,
) -> None:
    content = signed(released(first, "1.0.0"))

    assert content["version"] == 2
    assert list(content["targets"]) == ["release/vad/1.0.0.json"]
    (target,) = content["targets"].values()
    assert target["length"] == len(DOCUMENT)
    assert list(target["hashes"]) == ["sha256"]


def test_each_version_follows_the_one_before_and_starts_its_time_anew(first: TrustFleet) -> None:
    tomorrow = NOON + timedelta(days=1)
    second = released(first, "1.0.0")
    third = roles.add_release(
        second, ci(first), model=MODEL, version="1.1.0", document=DOCUMENT, now=tomorrow
    )
    content = signed(third)

    assert content["version"] == 3
    assert list(content["targets"]) == ["release/vad/1.0.0.json", "release/vad/1.1.0.json"]
    assert content["expires"] == "2027-06-02T12:00:00Z"
    assert content["x-mailboat-issued"] == "2026-06-02T12:00:00Z"


def test_an_approval_carries_its_plan(first: TrustFleet) -> None:
    (target,) = signed(approved(first, "1.0.0"))["targets"].values()

    mark = {"mailboat_approved": {"at": int(NOON.timestamp()), "security_version": 0}}
    assert target["custom"] == json.loads(json.dumps(EVERYBODY.to_custom())) | mark


def test_approving_again_replaces_the_plan(first: TrustFleet) -> None:
    again = roles.add_approval(
        approved(first, "1.0.0"),
        approvers(first),
        model=MODEL,
        version="1.0.0",
        document=DOCUMENT,
        plan={"mailboat_plan": {"rollout": "second"}},
        now=NOON,
    )

    (target,) = signed(again)["targets"].values()
    assert target["custom"]["mailboat_plan"] == {"rollout": "second"}


def test_what_is_removed_is_gone_and_the_rest_stays(first: TrustFleet) -> None:
    two = roles.add_approval(
        approved(first, "1.0.0"),
        approvers(first),
        model=MODEL,
        version="1.1.0",
        document=DOCUMENT,
        plan=EVERYBODY.to_custom(),
        now=NOON,
    )
    content = signed(
        roles.remove_approval(two, approvers(first), model=MODEL, version="1.0.0", now=NOON)
    )

    assert content["version"] == 4
    assert list(content["targets"]) == ["approval/vad/1.1.0.json"]


def test_what_was_never_approved_cannot_be_removed(first: TrustFleet) -> None:
    with pytest.raises(NotFound):
        roles.remove_approval(
            first.roles["approval-vad"], approvers(first), model=MODEL, version="9.9.9", now=NOON
        )


@pytest.mark.parametrize("content", [b"", b"garbage", b"{}", b"null"])
def test_nothing_is_added_to_what_is_no_role(first: TrustFleet, content: bytes) -> None:
    with pytest.raises(MalformedPayload):
        roles.add_release(
            content, ci(first), model=MODEL, version="1.0.0", document=DOCUMENT, now=NOON
        )


def test_nothing_is_added_to_a_role_of_another_type(first: TrustFleet) -> None:
    with pytest.raises(MalformedPayload, match="root role"):
        roles.add_release(
            first.factory_root, ci(first), model=MODEL, version="1.0.0", document=DOCUMENT, now=NOON
        )


def test_the_same_input_gives_the_same_bytes(first: TrustFleet) -> None:
    assert released(first, "1.0.0") == released(first, "1.0.0")


def test_the_paths_of_both_roles_never_meet(first: TrustFleet) -> None:
    targets = Metadata[Targets].from_bytes(first.roles["targets"]).signed
    assert targets.delegations is not None
    found = {
        path: [
            role.name for role in targets.delegations.roles.values() if role.is_delegated_path(path)
        ]
        for path in ("release/vad/1.0.0.json", "approval/vad/1.0.0.json", "x.json")
    }

    assert found == {
        "release/vad/1.0.0.json": ["release-vad"],
        "approval/vad/1.0.0.json": ["approval-vad"],
        "x.json": [],
    }


def test_a_model_is_delegated_beside_the_others(first: TrustFleet, tmp_path: Path) -> None:
    key = create_key(tmp_path / "new.pem").public_key
    targets = Metadata[Targets].from_bytes(first.roles["targets"]).signed
    roles.delegate(targets, "release-asr", [key])
    roles.delegate(targets, "approval-asr", [key])

    assert targets.delegations is not None
    assert list(targets.delegations.roles) == [
        "director",
        "release-vad",
        "approval-vad",
        "policy",
        "config",
        "release-asr",
        "approval-asr",
    ]


def test_the_director_may_list_nothing(first: TrustFleet) -> None:
    targets = Metadata[Targets].from_bytes(first.roles["targets"]).signed

    assert targets.delegations is not None
    assert targets.delegations.roles["director"].paths == []
    assert targets.targets == {}


def test_the_root_names_every_top_level_role_with_consistent_snapshots(first: TrustFleet) -> None:
    root = Metadata[Root].from_bytes(first.factory_root).signed

    assert root.consistent_snapshot
    quorums = {name: (len(role.keyids), role.threshold) for name, role in root.roles.items()}
    assert quorums == dict.fromkeys(("root", "targets", "snapshot", "timestamp"), (1, 1))


def test_ci_alone_withdraws_nothing_by_listing_another_length(tmp_path: Path) -> None:
    """Whoever else holds the controller: a device that sees this stops installing, not serving."""
    fleet = TrustFleet(tmp_path / "keys", now=NOON)
    digest = fleet.release("1.0.0")
    metadata = Metadata[Targets].from_bytes(fleet.roles["release-vad"]).signed
    (target,) = metadata.targets.values()
    target.length += 1
    held = {f"{name}.json": content for name, content in fleet.roles.items()}
    held["release-vad.json"] = roles.sign(metadata, [ci(fleet)])

    standing = TrustView(fleet.factory_root, held).standing(MODEL, "1.0.0")
    assert standing.may_serve(digest)
    assert not standing.may_install(digest)

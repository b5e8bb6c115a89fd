"""What the controller's own keys sign: snapshots that only grow, timestamps, desired states."""

import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mailboat_controller.authority.online import OnlineKeys
from mailboat_schemas.codec import decode
from mailboat_schemas.desired import Assignment, DesiredState, ReleaseRef
from mailboat_schemas.envelope import Envelope, PayloadType
from mailboat_schemas.errors import ConfigurationInvalid, SignatureInvalid
from mailboat_schemas.trust import TrustView
from trust_fleet import CLASS, FLEET, TrustFleet

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
DESIRED = DesiredState(
    fleet=FLEET,
    hardware_class=CLASS,
    counter=7,
    issued=1,
    assignments=(Assignment(model="vad", current=ReleaseRef(version="1.0.0", digest="d" * 64)),),
)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> TrustFleet:
    return TrustFleet(tmp_path_factory.mktemp("trust") / "keys", now=NOON)


def signed(content: bytes) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(content)["signed"]
    return result


def listed(snapshot: bytes) -> dict[str, int]:
    return {name: meta["version"] for name, meta in signed(snapshot)["meta"].items()}


class TestSnapshot:
    def test_follows_the_one_before_with_the_new_versions(self, fleet: TrustFleet) -> None:
        following = fleet.online.sign_snapshot(
            fleet.roles["snapshot"], {"release-vad": 2}, now=NOON + timedelta(days=1)
        )

        assert signed(following)["version"] == 2
        assert signed(following)["expires"] == "2026-07-02T12:00:00Z"
        assert listed(following) == {
            "targets.json": 1,
            "release-vad.json": 2,
            "approval-vad.json": 1,
            "policy.json": 1,
            "config.json": 1,
        }

    def test_never_loses_an_entry(self, fleet: TrustFleet) -> None:
        following = fleet.online.sign_snapshot(fleet.roles["snapshot"], {}, now=NOON)

        assert listed(following) == listed(fleet.roles["snapshot"])

    def test_takes_in_a_role_that_is_new(self, fleet: TrustFleet) -> None:
        following = fleet.online.sign_snapshot(
            fleet.roles["snapshot"], {"release-asr": 1}, now=NOON
        )

        assert listed(following)["release-asr.json"] == 1

    def test_never_lowers_a_version(self, fleet: TrustFleet) -> None:
        raised = fleet.online.sign_snapshot(fleet.roles["snapshot"], {"release-vad": 5}, now=NOON)

        with pytest.raises(ValueError, match="from version 5 to 4"):
            fleet.online.sign_snapshot(raised, {"release-vad": 4}, now=NOON)
        assert (
            listed(fleet.online.sign_snapshot(raised, {"release-vad": 5}, now=NOON))[
                "release-vad.json"
            ]
            == 5
        )


def test_a_timestamp_pins_its_snapshot_by_version_length_and_digest(fleet: TrustFleet) -> None:
    snapshot = fleet.online.sign_snapshot(fleet.roles["snapshot"], {}, now=NOON)
    timestamp = signed(fleet.online.sign_timestamp(fleet.roles["timestamp"], snapshot, now=NOON))

    assert (timestamp["version"], timestamp["expires"]) == (2, "2026-06-08T12:00:00Z")
    assert timestamp["meta"] == {
        "snapshot.json": {
            "version": 2,
            "length": len(snapshot),
            "hashes": {"sha256": hashlib.sha256(snapshot).hexdigest()},
        }
    }


class TestDesiredState:
    @pytest.fixture
    def view(self, fleet: TrustFleet) -> TrustView:
        files = {f"{name}.json": content for name, content in fleet.roles.items()}
        return TrustView(fleet.factory_root, files)

    def test_opens_under_the_delegation_to_the_director(
        self, fleet: TrustFleet, view: TrustView
    ) -> None:
        envelope = decode(Envelope, fleet.online.sign_desired(DESIRED))
        payload = view.open_from_director(envelope, PayloadType.DESIRED_STATE)

        assert decode(DesiredState, payload) == DESIRED

    def test_does_not_pass_for_another_kind_of_message(
        self, fleet: TrustFleet, view: TrustView
    ) -> None:
        envelope = decode(Envelope, fleet.online.sign_desired(DESIRED))
        retyped = envelope.model_copy(update={"payload_type": PayloadType.DEVICE_DESIRED})

        for each in (envelope, retyped):
            with pytest.raises(SignatureInvalid):
                view.open_from_director(each, PayloadType.DEVICE_DESIRED)

    def test_is_signed_by_the_director_and_by_neither_of_the_others(
        self, fleet: TrustFleet, view: TrustView
    ) -> None:
        keys = fleet.online
        for other in (keys.snapshot, keys.timestamp):
            impostor = OnlineKeys(snapshot=other, timestamp=other, director=other)
            envelope = decode(Envelope, impostor.sign_desired(DESIRED))

            with pytest.raises(SignatureInvalid):
                view.open_from_director(envelope, PayloadType.DESIRED_STATE)

    def test_altered_by_one_byte_it_does_not_open(self, fleet: TrustFleet, view: TrustView) -> None:
        envelope = decode(Envelope, fleet.online.sign_desired(DESIRED))
        altered = envelope.model_copy(update={"payload": envelope.payload + b"\0"})

        with pytest.raises(SignatureInvalid):
            view.open_from_director(altered, PayloadType.DESIRED_STATE)


@pytest.mark.parametrize("missing", ["snapshot", "timestamp", "director"])
def test_a_controller_without_one_of_its_keys_says_which(
    fleet: TrustFleet, tmp_path: Path, missing: str
) -> None:
    for path in (fleet.directory / "controller" / "keys").iterdir():
        if path.stem != missing:
            (tmp_path / path.name).write_bytes(path.read_bytes())

    with pytest.raises(ConfigurationInvalid, match=f"{missing}.pem"):
        OnlineKeys.load(tmp_path)

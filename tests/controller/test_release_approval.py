"""Approving, rejecting and withdrawing from the command line, against a real controller."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from command_line import Said, forget_settings, mailboat
from mailboat_controller.access.people import Role
from mailboat_controller.authority.ceremony import Quorum
from mailboat_controller.store import audit, manifests
from mailboat_schemas.codec import decode
from mailboat_schemas.desired import DesiredState, ManifestBundle
from mailboat_schemas.envelope import Envelope
from running_controller import RunningController, running_controller
from trust_fleet import CLASS, TrustFleet

TENSOR = {"name": "x", "dtype": "float32", "shape": [-1, 4]}


@pytest.fixture(autouse=True)
def _no_connection_of_mine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    forget_settings(monkeypatch, tmp_path)


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningController]:
    with running_controller(tmp_path_factory.mktemp("controller")) as controller:
        yield controller


class Desk:
    """An approver's desk: a pipeline's releases come in, decisions go out."""

    def __init__(self, directory: Path, controller: RunningController) -> None:
        self.directory = directory
        self.controller = controller
        self.connection = ("--connection", controller.person("paul", Role.APPROVER))
        self.key = ("--key", controller.trust.directory / "approver" / "vad.pem")

    def released(self, version: str, *, content: bytes = b"weights", **spec: Any) -> None:
        """CI builds, signs and submits; nobody has approved anything."""
        (self.directory / "model.onnx").write_bytes(content)
        release = {
            "apiVersion": "mailboat/v1",
            "kind": "Release",
            "metadata": {"name": "vad", "version": version},
            "spec": {
                "interface": {"inputs": [TENSOR], "outputs": [TENSOR]},
                "variants": [
                    {
                        "hardware_classes": [CLASS],
                        "files": [{"path": "m.onnx", "source": "model.onnx", "role": "model"}],
                        "peak_memory": "64MiB",
                    }
                ],
                "provenance": {"source_repository": "https://git.example/vad"},
                **spec,
            },
        }
        source = self.directory / "release.yaml"
        source.write_text(json.dumps(release, indent=1))
        build = self.directory / f"build-{version}"
        ci = ("--connection", self.controller.connection("build"))
        key = ("--key", self.controller.trust.directory / "ci" / "vad.pem")
        assert mailboat("release", "build", source, "--out", build).code == 0
        assert mailboat("release", "sign", build, *key, *ci).code == 0
        assert mailboat("release", "submit", build, *ci, "--http", "--json").code == 0

    def rollout(self, version: str, name: str, **wave: Any) -> tuple[str, Path]:
        content = {
            "apiVersion": "mailboat/v1",
            "kind": "Rollout",
            "metadata": {"name": name},
            "spec": {
                "release": {"model": "vad", "version": version},
                "waves": [wave or {"percent": 100}],
            },
        }
        path = self.directory / f"{name}.yaml"
        path.write_text(json.dumps(content, indent=1))
        return "--rollout", path

    def approve(self, version: str, name: str, *more: str | Path) -> Said:
        words = (*self.rollout(version, name), *self.key, *self.connection, *more)
        return mailboat("release", "approve", "vad", version, *words)

    def withdraw(self, version: str, *more: str | Path) -> Said:
        words = ("--reason", "it mishears", *self.key, *self.connection, *more)
        return mailboat("release", "withdraw", "vad", version, *words)

    def reject(self, version: str, reason: str) -> Said:
        words = ("--reason", reason, *self.connection, "--json")
        return mailboat("release", "reject", "vad", version, *words)

    def standing(self, version: str) -> dict[str, Any]:
        said = mailboat("release", "show", "vad", version, *self.connection, "--json")
        assert said.code == 0, said.err
        return dict(said.json)

    def desired(self) -> DesiredState:
        with self.controller.store.read() as tx:
            row = manifests.of_class(tx, CLASS)
        assert row is not None
        bundle = decode(ManifestBundle, row.bundle)
        return decode(DesiredState, decode(Envelope, bundle.desired).payload)


@pytest.fixture
def desk(tmp_path: Path, controller: RunningController) -> Desk:
    return Desk(tmp_path, controller)


def test_a_release_is_approved_withdrawn_and_approved_again(desk: Desk) -> None:
    desk.released("1.0.0")
    assert desk.standing("1.0.0")["standing"] == "released"

    approved = desk.approve("1.0.0", "to-one", "--yes")

    assert approved.code == 0, approved.err
    for shown in ("m.onnx (model), 7 bytes", "https://git.example/vad", "rollout to-one", "100 %"):
        assert shown in approved.err
    standing = desk.standing("1.0.0")
    assert standing["standing"] == "approved"
    assert standing["by"] == "approver:paul"
    assert [key["name"] for key in standing["signed_by"]] != []
    assert [key["name"] for key in standing["approved_by"]] != []
    assert standing["approved_plan"]["rollout"] == "to-one"
    assert [rollout["name"] for rollout in standing["rollouts"]] == ["to-one"]

    before = desk.desired().counter
    withdrawn = desk.withdraw("1.0.0", "--yes")

    assert withdrawn.code == 0, withdrawn.err
    assert "approved afterwards: nothing" in withdrawn.err
    standing = desk.standing("1.0.0")
    assert (standing["standing"], standing["reason"]) == ("withdrawn", "it mishears")
    assert standing["rollouts"][0]["phase"] in ("halted", "aborted")
    # A tombstone by a higher counter: the manifest says so, it is not taken away.
    assert desk.desired().counter > before
    assert all(each.current is None and each.offer is None for each in desk.desired().assignments)
    with desk.controller.store.read() as tx:
        entries = audit.about(tx, ["vad@1.0.0"], ["release.withdraw"])
    assert [(entry.actor, entry.reason) for entry in entries] == [("approver:paul", "it mishears")]
    assert entries[0].details["signed_by"][0]["keyid"]

    assert desk.approve("1.0.0", "to-one-again", "--yes").code == 0
    assert desk.standing("1.0.0")["standing"] == "approved"
    actions = [deed["action"] for deed in desk.standing("1.0.0")["history"]]
    assert actions == ["release.accept", "release.approve", "release.withdraw", "release.approve"]


def test_what_is_not_approved_cannot_be_withdrawn(desk: Desk) -> None:
    desk.released("1.1.0", content=b"others")

    said = desk.withdraw("1.1.0", "--yes")

    assert said.code == 4
    assert "is not approved" in said.err


def test_a_rejection_is_recorded_and_asks_again_before_an_approval(desk: Desk) -> None:
    desk.released("1.2.0", content=b"biased")

    assert desk.reject("1.2.0", "the evaluation is of another data set").code == 0

    standing = desk.standing("1.2.0")
    assert (standing["standing"], standing["by"]) == ("rejected", "approver:paul")
    row = next(
        row
        for row in mailboat("release", "list", *desk.connection, "--json").json
        if row["version"] == "1.2.0"
    )
    assert row["reason"] == "the evaluation is of another data set"
    refused = desk.approve("1.2.0", "to-biased", "--yes")
    assert refused.code == 1
    assert "rejected it: the evaluation is of another data set" in refused.err
    assert desk.approve("1.2.0", "to-biased", "--yes", "--even-rejected").code == 0
    assert desk.standing("1.2.0")["standing"] == "approved"
    # What is approved is withdrawn, not rejected.
    assert desk.reject("1.2.0", "too late").code == 6


def test_nobody_approves_or_withdraws_without_being_asked(desk: Desk) -> None:
    desk.released("1.3.0", content=b"silent")

    said = desk.approve("1.3.0", "to-silent")

    assert said.code == 1
    assert "--yes" in said.err
    assert desk.standing("1.3.0")["standing"] == "released"


def test_only_an_approver_may_reject(desk: Desk) -> None:
    desk.released("1.4.0", content=b"ops")
    operator = ("--connection", desk.controller.person("alice", Role.OPERATOR))

    said = mailboat("release", "reject", "vad", "1.4.0", "--reason", "no", *operator)

    assert said.code == 5


def test_the_keys_of_ci_approve_and_withdraw_nothing(desk: Desk) -> None:
    desk.released("1.5.0", content=b"self")
    desk.key = ("--key", desk.controller.trust.directory / "ci" / "vad.pem")

    said = desk.approve("1.5.0", "to-self", "--yes")

    assert said.code == 5
    assert "E-KEY-NOT-NAMED" in said.err
    assert desk.standing("1.5.0")["standing"] == "released"


def test_the_lists_are_for_people_too(desk: Desk) -> None:
    desk.released("1.6.0", content=b"people")
    assert desk.approve("1.6.0", "to-people", "--yes").code == 0

    listed = mailboat("release", "list", *desk.connection)
    shown = mailboat("release", "show", "vad", "1.6.0", *desk.connection)

    assert "STANDING" in listed.out
    assert "approved" in listed.out
    for sentence in ("vad 1.6.0", "Approved plan:", "wave 1: 100 % of each class", "to-people"):
        assert sentence in shown.out


def test_a_role_of_the_controllers_that_nobody_signed_is_not_built_on(
    desk: Desk, tmp_path: Path
) -> None:
    desk.released("1.7.0", content=b"rooted")
    stranger = TrustFleet(tmp_path / "other")
    root = tmp_path / "root.json"
    root.write_bytes(stranger.factory_root)

    said = desk.approve("1.7.0", "to-rooted", "--yes", "--trust-root", root)

    assert said.code == 8
    assert "not signed as it must be" in said.err
    root.write_bytes(desk.controller.trust.factory_root)
    assert desk.approve("1.7.0", "to-rooted", "--yes", "--trust-root", root).code == 0


# --- k of n --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_of_two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningController]:
    quorum = Quorum(threshold=2, keys=2)
    with running_controller(tmp_path_factory.mktemp("two"), approval=quorum) as controller:
        yield controller


def test_two_approvers_on_two_machines_sign_one_after_the_other(
    tmp_path: Path, two_of_two: RunningController
) -> None:
    desk = Desk(tmp_path, two_of_two)
    keys = [desk.controller.trust.directory / "approver" / f"vad-{n}.pem" for n in (1, 2)]
    desk.key = ("--key", keys[0])
    desk.released("1.0.0")
    pending = tmp_path / "pending.json"

    alone = desk.approve("1.0.0", "both", "--yes")
    assert alone.code == 1
    assert "1 more of" in alone.err
    first = desk.approve("1.0.0", "both", "--yes", "--pending", pending, "--json")
    assert first.code == 0
    assert len(first.json["missing"]) == 1
    assert mailboat("release", "submit", pending, *desk.connection).code == 1
    assert mailboat("trust", "sign", pending, "--key", keys[0]).code == 6  # counts once
    assert mailboat("trust", "sign", pending, "--key", keys[1]).code == 0
    assert mailboat("release", "submit", pending, *desk.connection).code == 0

    standing = desk.standing("1.0.0")
    assert standing["standing"] == "approved"
    assert len(standing["approved_by"]) == 2
    desk.key = ("--key", keys[0], "--key", keys[1])  # type: ignore[assignment]
    assert desk.withdraw("1.0.0", "--yes").code == 0
    assert desk.standing("1.0.0")["standing"] == "withdrawn"


def test_a_build_is_cosigned_where_two_must_sign(
    tmp_path: Path, two_of_two: RunningController
) -> None:
    desk = Desk(tmp_path, two_of_two)
    keys = [desk.controller.trust.directory / "approver" / f"vad-{n}.pem" for n in (1, 2)]
    desk.released("2.0.0", content=b"built")
    build = tmp_path / "build-2.0.0"
    (build / "roles" / "release-vad.json").unlink()  # it is there already
    words = (*desk.rollout("2.0.0", "built"), "--key", keys[0], *desk.connection)

    assert mailboat("release", "approve", build, *words).code == 0
    alone = mailboat("release", "submit", build, *desk.connection, "--http", "--json")
    assert alone.json["status"] == "rejected"
    assert mailboat("release", "cosign", build, "--key", keys[0]).code == 6
    cosigned = mailboat("release", "cosign", build, "--key", keys[1])
    assert cosigned.code == 0
    assert "rollout built" in cosigned.out
    assert mailboat("release", "submit", build, *desk.connection, "--http", "--json").code == 0
    assert len(desk.standing("2.0.0")["approved_by"]) == 2

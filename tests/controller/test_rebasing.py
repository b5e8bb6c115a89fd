"""The same change again, after somebody else's was taken first: both are there in the end."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root, TargetFile, Targets

from mailboat_controller.authority import changes
from mailboat_controller.authority.ceremony import Ceremony, Quorum, hold
from mailboat_controller.authority.changes import Draft
from mailboat_controller.authority.pending import Pending
from mailboat_controller.authority.rebasing import rebase
from mailboat_controller.trust.role_files import read_roles
from mailboat_controller.trust.role_intake import RebaseNeeded, judge_roles
from mailboat_schemas.errors import ConfigurationInvalid, Conflict
from signing_room import SigningRoom

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
ONE = Quorum(threshold=1, keys=1)
Change = Callable[[Draft], object]


@dataclass
class Table(SigningRoom):
    """What is in force, and the keys that may change it."""

    held: dict[str, bytes]

    @property
    def signers(self) -> tuple[CryptoSigner, CryptoSigner]:
        return self.key("offline/root"), self.key("offline/targets")

    def ask(self, change: Change) -> Pending:
        return self.pending(self.held, change)

    def take(self, pending: Pending, *more: CryptoSigner) -> None:
        """As the controller does, once everybody has signed."""
        may = {keyid for each in pending.requirements() for keyid in each.keys}
        for signer in (*self.signers, *more):
            if signer.public_key.keyid in may:
                pending.sign(signer)
        self.held |= judge_roles(pending.submission(), self.held, self.now).roles

    def again(self, pending: Pending) -> Pending:
        draft = rebase(pending, self.held, self.now)
        return Pending.of(draft.held, draft.finish())

    def names(self, role: str) -> tuple[int, list[str]]:
        """Threshold, and what people call the keys of a role."""
        delegator: Root | Targets = Metadata.from_bytes(
            self.held["root" if role in changes.TOP_LEVEL else "targets"]
        ).signed
        named = delegator.get_delegated_role(role)
        found = [delegator.get_key(keyid).unrecognized_fields for keyid in named.keyids]
        return named.threshold, sorted(str(each["x-mailboat-name"]) for each in found)


@pytest.fixture
def table(tmp_path: Path) -> Table:
    hold(Ceremony(models=("vad",), root=ONE, targets=ONE, approval=ONE), tmp_path / "trust", NOW)
    held = read_roles(tmp_path / "trust")
    return Table(keys=tmp_path / "trust", now=NOW + timedelta(days=3), held=held)


def adding(key: CryptoSigner, role: str, threshold: int | None = None) -> Change:
    return lambda draft: changes.add_key(draft, role, key.public_key, threshold)


def test_both_keys_are_added(table: Table) -> None:
    anna, berta = table.new_key("anna"), table.new_key("berta")
    first, late = (table.ask(adding(key, "policy")) for key in (anna, berta))
    table.take(first)
    with pytest.raises(RebaseNeeded):
        table.take(late)

    table.take(table.again(late))

    assert table.names("policy") == (1, ["anna", "berta", "policy"])


def test_nobodys_signature_is_carried_over(table: Table) -> None:
    late = table.ask(adding(table.new_key("anna"), "policy"))
    late.sign(table.key("offline/targets"))
    table.take(table.ask(lambda draft: draft.renew("targets")))

    again = table.again(late)

    assert (again.signers(), len(again.missing())) == ([], 1)
    assert "anna" in again.changes()[1]


def test_a_key_that_is_taken_away_stays_away_and_the_others_threshold_stays(table: Table) -> None:
    anna, old = table.new_key("anna"), table.key("offline/root").public_key.keyid
    table.take(table.ask(adding(anna, "root")), anna)
    late = table.ask(lambda draft: changes.remove_key(draft, "root", old, 1))
    berta = table.new_key("berta")
    table.take(table.ask(adding(berta, "root", 2)), anna, berta)

    again = table.again(late)
    for signer in (anna, berta):
        again.sign(signer)
    table.held |= judge_roles(again.submission(), table.held, table.now).roles

    assert table.names("root") == (2, ["anna", "berta"])


def test_online_keys_and_new_approvers_are_rotated_all_the_same(table: Table) -> None:
    """What follows from the change follows again: the approvals are signed by the new approver."""
    new = {role: table.new_key(role) for role in ("snapshot", "timestamp", "director", "carol")}

    def rotate(draft: Draft) -> None:
        for role in ("snapshot", "timestamp", "director"):
            draft.set_keys(role, [new[role].public_key])
        draft.set_keys("approval-vad", [new["carol"].public_key])

    late = table.ask(rotate)
    table.take(table.ask(lambda draft: (draft.renew("root"), draft.renew("targets"))))

    again = table.again(late)
    assert sorted(again.roles) == ["approval-vad", "root", "targets"]
    table.take(again, new["carol"])

    for role in ("snapshot", "timestamp", "director"):
        assert table.names(role) == (1, [role])
        assert Metadata[Root].from_bytes(table.held["root"]).signed.version == 3
    assert table.names("approval-vad") == (1, ["carol"])


def test_an_expiry_is_put_off_again(table: Table) -> None:
    late = table.ask(lambda draft: (draft.renew("approval-vad"), draft.renew("targets")))
    table.take(table.ask(adding(table.new_key("anna"), "policy")))

    again = table.again(late)

    assert {role: each.signed.version for role, each in again.roles.items()} == {
        "approval-vad": 2,
        "targets": 3,
    }


def test_a_model_is_begun_again_and_not_twice(table: Table) -> None:
    ci, approver = table.new_key("asr-ci"), table.new_key("asr-approver")

    def begin(draft: Draft) -> None:
        keys = {"release_keys": [ci.public_key], "approval_keys": [approver.public_key]}
        draft.add_model("asr", **keys, threshold=1)

    late, same = table.ask(begin), table.ask(begin)
    table.take(table.ask(lambda draft: draft.renew("targets")))
    table.take(table.again(late), ci, approver)

    assert table.names("approval-asr") == (1, ["asr-approver"])
    with pytest.raises(Conflict, match="already"):
        table.again(same)


def test_what_is_done_already_is_not_asked_of_anybody(table: Table) -> None:
    anna = table.new_key("anna")
    first, same = (table.ask(adding(anna, "policy")) for _ in range(2))
    table.take(first)

    with pytest.raises(ConfigurationInvalid, match="Nothing would change"):
        table.again(same)


def test_an_approval_is_not_made_again_by_a_machine(table: Table) -> None:
    """Whoever approves has looked at a release, beside others that were approved then."""
    late = table.ask(lambda draft: draft.renew("approval-vad"))
    path = "approval/vad/1.0.0.json"
    target = TargetFile.from_data(path, b"{}", ["sha256"])
    late.roles["approval-vad"].signed.targets[path] = target

    with pytest.raises(Conflict, match="decided on other grounds"):
        table.again(late)

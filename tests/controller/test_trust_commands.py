"""`mailboat trust …`, word by word, against a real controller: the whole ceremony by file."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from command_line import forget_settings, mailboat
from mailboat_controller.access.people import Role
from mailboat_controller.metrics.process_metrics import Metrics
from mailboat_controller.store import audit
from mailboat_schemas.enrolment import Kind
from running_controller import RunningController, running_controller
from signing_room import held_by
from trust_fleet import TrustFleet


@pytest.fixture(autouse=True)
def _nothing_of_mine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    forget_settings(monkeypatch, tmp_path)


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningController]:
    with running_controller(tmp_path_factory.mktemp("controller")) as controller:
        yield controller


@dataclass
class Office:
    """A person's desk with connection and a directory for files."""

    controller: RunningController
    directory: Path

    @property
    def operator(self) -> tuple[str, Path]:
        return "--connection", self.controller.person("alice")

    def key(self, name: str) -> tuple[str, Path]:
        return "--key", self.controller.trust.directory / f"{name}.pem"

    def make_key(self, name: str) -> Path:
        """The private key's path; the public one is beside it."""
        path = self.directory / f"{name}.pem"
        assert mailboat("trust", "make-key", path, "--name", name, "--unencrypted").code == 0
        return path

    def file(self, name: str = "pending") -> Path:
        return self.directory / f"{name}.json"

    def version(self, role: str) -> int:
        signed = json.loads(held_by(self.controller.store)[role])["signed"]
        return int(signed["version"])


@pytest.fixture
def office(controller: RunningController, tmp_path: Path) -> Office:
    return Office(controller, tmp_path)


class TestCeremonyByFile:
    def test_request_sign_elsewhere_submit(self, office: Office) -> None:
        carol = office.make_key("carol")
        before = office.version("root")
        asked = mailboat(
            *("trust", "add-key", "targets", "--public-key", f"{carol}.pub"),
            *("--out", office.file(), *office.operator, "--json"),
        )
        assert asked.code == 0, asked.err
        assert asked.json["complete"] is False

        early = mailboat("trust", "submit", office.file(), "--reason", "x", *office.operator)
        assert early.code == 1
        assert "Signatures are missing" in early.err

        signed = mailboat("trust", "sign", office.file(), *office.key("offline/root"), "--json")
        assert signed.json["complete"] is True
        taken = mailboat(
            *("trust", "submit", office.file(), "--reason", "carol joins", *office.operator),
            "--json",
        )

        assert taken.code == 0, taken.err
        assert taken.json["versions"] == {"root": before + 1}
        assert office.version("root") == before + 1
        with office.controller.store.read() as tx:
            entry = next(row for row in audit.page(tx) if row.action == "trust.submit")
        assert (entry.actor, entry.reason) == ("operator:alice", "carol joins")

    def test_a_lost_race_says_how_to_go_on(self, office: Office) -> None:
        for name in ("first", "second"):
            renew = ("trust", "renew", "targets", "--out", office.file(name), *office.operator)
            assert mailboat(*renew, *office.key("offline/targets")).code == 0
        first = mailboat("trust", "submit", office.file("first"), "--reason", "x", *office.operator)
        assert first.code == 0, first.err

        late = mailboat("trust", "submit", office.file("second"), "--reason", "x", *office.operator)

        assert late.code == 6
        assert "E-REBASE" in late.err
        assert "make the same request again" in late.err
        assert "mailboat trust rebase" in late.err

        again = ("trust", "rebase", office.file("second"), "--out", office.file("third"))
        asked = mailboat(*again, *office.operator, "--json")
        assert (asked.code, asked.json["signed_by"]) == (0, []), asked.err
        assert mailboat("trust", "sign", office.file("third"), *office.key("offline/targets"))
        third = mailboat("trust", "submit", office.file("third"), "--reason", "x", *office.operator)
        assert third.code == 0, third.err

    def test_show_reads_it_out_before_anybody_signs(self, office: Office) -> None:
        carol = office.make_key("carol")
        words = ("--out", office.file(), *office.operator)
        mailboat("trust", "add-key", "policy", "--public-key", f"{carol}.pub", *words)
        said = mailboat("trust", "show", office.file())

        assert said.code == 0
        assert "Signed by  nobody yet" in said.out
        assert ") may sign policy from now on." in said.out
        assert "Missing    targets: 1 more of " in said.out
        assert "Afterwards policy: 1 of carol (" in said.out

    def test_a_signer_can_hold_it_against_a_root_of_their_own(
        self, office: Office, tmp_path: Path
    ) -> None:
        mailboat("trust", "renew", "targets", "--out", office.file(), *office.operator)
        (tmp_path / "root.json").write_bytes(held_by(office.controller.store)["root"])
        good = mailboat("trust", "show", office.file(), "--root", tmp_path / "root.json")
        mailboat("trust", "init", tmp_path / "other", "--model", "vad")
        strange = ("--root", tmp_path / "other" / "root.json")
        bad = mailboat("trust", "sign", office.file(), *office.key("offline/targets"), *strange)

        assert good.code == 0, good.err
        assert (bad.code, "E-PENDING-EDITED" in bad.err) == (8, True)

    def test_a_pending_file_is_never_written_over(self, office: Office) -> None:
        words = ("trust", "renew", "targets", "--out", office.file(), *office.operator)
        assert mailboat(*words).code == 0
        before = office.file().read_bytes()

        assert mailboat(*words).code == 6
        assert office.file().read_bytes() == before

    def test_a_change_that_changes_nothing_is_not_asked_of_anybody(self, office: Office) -> None:
        words = ("--out", office.file(), *office.operator)
        said = mailboat("trust", "threshold", "policy", "1", *words)

        assert (said.code, "Nothing would change" in said.err) == (1, True)
        assert not office.file().exists()

    def test_a_model_is_added_from_files_without_a_network(self, office: Office) -> None:
        ci, approver = office.make_key("asr-ci"), office.make_key("asr-approver")
        said = mailboat(
            *("trust", "add-model", "asr", "--release-key", f"{ci}.pub"),
            *("--approval-key", f"{approver}.pub", "--out", office.file()),
            *("--from", office.controller.trust.directory, "--json"),
        )

        assert said.code == 0, said.err
        assert said.json["roles"].keys() == {"targets", "release-asr", "approval-asr"}


class TestRenew:
    def test_an_approver_renews_in_one_line(self, office: Office) -> None:
        before = office.version("approval-vad")
        anna = office.controller.person("anna", Role.APPROVER)
        said = mailboat(
            *("trust", "renew", "approval-vad", "--connection", anna),
            *office.key("approver/vad"),
            "--json",
        )

        assert said.code == 0, said.err
        assert said.json["versions"] == {"approval-vad": before + 1}

    def test_a_pipeline_or_a_viewer_brings_no_roles(self, office: Office) -> None:
        victor = office.controller.person("victor", Role.VIEWER)
        build = office.controller.connection("build", Kind.CI)
        for connection in (victor, build):
            said = mailboat(
                *("trust", "renew", "release-vad", "--connection", connection),
                *office.key("ci/vad"),
            )
            assert said.code == 5, said.err

    @pytest.mark.parametrize("key", ["ci/vad", "offline/root"])
    def test_another_roles_key_does_not_renew(self, office: Office, key: str) -> None:
        said = mailboat("trust", "renew", "approval-vad", *office.operator, *office.key(key))

        assert (said.code, "E-KEY-NOT-NAMED" in said.err) == (5, True)

    def test_without_a_key_it_asks_for_one_or_for_a_file(self, office: Office) -> None:
        said = mailboat("trust", "renew", "approval-vad", *office.operator)

        assert said.code == 1
        assert "--out" in said.err

    def test_the_key_may_come_through_a_descriptor(self, office: Office) -> None:
        path = office.controller.trust.directory / "approver" / "vad.pem"
        with path.open("rb") as file:
            said = mailboat(
                *("trust", "renew", "approval-vad", *office.operator, "--json"),
                *("--key", f"fd:{file.fileno()}"),
            )

        assert said.code == 0, said.err


class TestOnlineKeys:
    def test_all_three_are_rotated_while_the_controller_runs(self, office: Office) -> None:
        settings = office.controller.settings
        config = ("--config", settings.data_dir / "controller.toml")
        made = mailboat("trust", "online-keys", *config, "--json")
        assert made.code == 0, made.err
        public = {
            Path(path).stem: json.loads(Path(path).read_text()) for path in made.json["public_keys"]
        }
        roles = ("snapshot", "timestamp", "director")
        rotate = ("trust", "rotate", *roles, "--to", settings.keys_dir / "next")
        assert mailboat(*rotate, "--out", office.file(), *office.operator).code == 0
        keys = (*office.key("offline/root"), *office.key("offline/targets"))
        assert mailboat("trust", "sign", office.file(), *keys).code == 0
        taken = mailboat(
            "trust", "submit", office.file(), "--reason", "controller stolen", *office.operator
        )

        assert taken.code == 0, taken.err
        held = held_by(office.controller.store)
        signatures = json.loads(held["timestamp"])["signatures"]
        assert [each["keyid"] for each in signatures] == [public["timestamp"]["keyid"]]
        again = mailboat("trust", "online-keys", *config)  # the named ones have settled by now
        assert again.code == 0, again.err
        assert mailboat("trust", "online-keys", *config).code == 6

    def test_one_file_for_several_roles_is_ambiguous(self, office: Office) -> None:
        carol = office.make_key("carol")
        said = mailboat(
            *("trust", "rotate", "snapshot", "timestamp", "--to", f"{carol}.pub"),
            *("--out", office.file(), *office.operator),
        )

        assert said.code == 1
        assert "one role at a time" in said.err


class TestStatus:
    def test_of_a_controller(self, office: Office) -> None:
        said = mailboat("trust", "status", *office.operator, "--json")

        assert said.code == 0, said.out
        assert said.json["attention"] is False
        found = {each["role"]: each for each in said.json["roles"]}
        assert found["approval-vad"]["keys"][0].startswith("vad approver (")
        assert [each["certificate"] for each in said.json["certificates"]] == ["ca", "server"]

    def test_of_files_that_have_grown_old_calls_for_attention(self, tmp_path: Path) -> None:
        TrustFleet(tmp_path / "trust", now=datetime.now(UTC) - timedelta(days=25))
        said = mailboat("trust", "status", "--from", tmp_path / "trust")

        assert said.code == 3
        assert "mailboat trust renew approval-vad --key KEY" in said.out
        assert "\texpired\t" in said.out

    def test_its_times_are_a_metric_too(self, office: Office) -> None:
        exposition = Metrics(office.controller.store, dict).render().decode()

        assert 'mailboat_trust_role_expires_timestamp_seconds{role="approval-vad"} 1.' in exposition


class TestKeys:
    def test_a_new_key_is_encrypted_unless_told(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert mailboat("trust", "make-key", tmp_path / "a.pem").code == 1
        (tmp_path / "passphrase").touch(mode=0o600)
        (tmp_path / "passphrase").write_text("correct horse\n")
        monkeypatch.setenv("MAILBOAT_KEY_PASSPHRASE_FILE", str(tmp_path / "passphrase"))
        said = mailboat("trust", "make-key", tmp_path / "a.pem", "--name", "anna", "--json")

        assert said.json["encrypted"] is True
        assert (tmp_path / "a.pem").read_bytes().startswith(b"-----BEGIN ENCRYPTED")
        assert json.loads((tmp_path / "a.pem.pub").read_text())["x-mailboat-name"] == "anna"
        assert mailboat("trust", "make-key", tmp_path / "a.pem").code == 6

    def test_the_public_part_of_any_source_is_written(self, office: Office) -> None:
        carol = office.make_key("carol")
        read, write = os.pipe()
        os.write(write, carol.read_bytes())
        os.close(write)
        said = mailboat("trust", "public-key", f"fd:{read}", "--out", office.file(), "--json")
        os.close(read)

        assert said.code == 0, said.err
        made = json.loads(carol.with_name("carol.pem.pub").read_text())
        assert said.json["keyid"] == made["keyid"]

"""The loop that pulls: signed commits alone, forward alone, and nothing of a hostile repository."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from command_line import Said, mailboat
from mailboat_controller.cli import output
from mailboat_controller.gitops import git_program, repository
from mailboat_controller.gitops.git_names import checked_branch, checked_path, checked_url
from mailboat_controller.gitops.pulling import Pulling, turn
from mailboat_controller.gitops.repository import CommitUnsigned, HistoryRewritten, Repository
from mailboat_controller.store import audit, gitops
from mailboat_controller.store.gitops import SetRow
from mailboat_schemas.errors import ConfigurationInvalid, DocumentInvalid, OperatorNeeded
from running_api import RunningApi
from signed_repository import ALICE, MALLORY, SignedRepository

SITE = """\
apiVersion: mailboat/v1
kind: Site
metadata: {{name: {name}}}
spec: {{broker_host: {name}.example}}
"""


@pytest.fixture
def origin(tmp_path: Path) -> SignedRepository:
    found = SignedRepository.make(tmp_path / "origin")
    found.write("fleet/harbour.yaml", SITE.format(name="harbour"))
    return found


@pytest.fixture
def copy(origin: SignedRepository, tmp_path: Path) -> Repository:
    return Repository(tmp_path / "copy", str(origin.tree), "main", origin.signers)


def test_a_signed_commit_is_read_without_being_checked_out(
    origin: SignedRepository, copy: Repository
) -> None:
    tip = origin.commit()

    assert copy.fetch() == tip
    assert copy.verified(tip).signer == ALICE
    ((name, content),) = copy.files(tip, "fleet/")
    assert (name, b"harbour.example" in content) == ("fleet/harbour.yaml", True)


@pytest.mark.parametrize("signer", [None, MALLORY])
def test_a_commit_that_nobody_in_the_list_signed_is_refused(
    origin: SignedRepository, copy: Repository, signer: str | None
) -> None:
    origin.commit()
    tip = origin.commit(signer)

    assert copy.fetch() == tip
    with pytest.raises(CommitUnsigned):
        copy.verified(tip)


def test_the_repository_cannot_say_who_may_sign(origin: SignedRepository, copy: Repository) -> None:
    """Neither its own configuration nor that of whoever runs us is asked."""
    origin.write("allowed_signers", origin.key(MALLORY).with_suffix(".pub").read_text())
    origin.git("config", "gpg.ssh.allowedSignersFile", str(origin.tree / "allowed_signers"))
    tip = origin.commit(MALLORY)
    copy.fetch()

    with pytest.raises(CommitUnsigned):
        copy.verified(tip)


def test_history_goes_forward_alone(origin: SignedRepository, copy: Repository) -> None:
    first = origin.commit()
    second = origin.commit()
    copy.fetch()
    copy.refuse_rewound(second, first)

    origin.git("reset", "--quiet", "--hard", first)
    assert copy.fetch() == first, "a branch that was moved back is seen"
    with pytest.raises(HistoryRewritten, match=second):
        copy.refuse_rewound(first, second)
    with pytest.raises(HistoryRewritten):
        copy.refuse_rewound(first, "0" * 40)  # of a repository that we never saw


def test_a_link_is_no_document(origin: SignedRepository, copy: Repository) -> None:
    (origin.tree / "fleet" / "passwd.yaml").symlink_to("/etc/passwd")
    tip = origin.commit()
    copy.fetch()

    with pytest.raises(DocumentInvalid, match="is a link"):
        copy.files(tip, "fleet")


def test_hidden_files_and_other_directories_are_left_alone(
    origin: SignedRepository, copy: Repository
) -> None:
    origin.write(".github/workflows/ci.yml", "on: push")
    origin.write("fleet/.draft.yaml", "not yet")
    origin.write("elsewhere/x.yaml", "not ours")
    origin.write("fleet/README.md", "words")
    tip = origin.commit()
    copy.fetch()

    assert [name for name, _ in copy.files(tip, "fleet")] == ["fleet/harbour.yaml"]
    assert len(copy.files(tip, "")) == 2


def test_more_than_a_set_takes_is_refused(
    origin: SignedRepository, copy: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin.write("fleet/sea.yaml", SITE.format(name="sea"))
    tip = origin.commit()
    copy.fetch()

    for bound in ("FILES_MAX", "ENTRIES_MAX", "BYTES_MAX"):
        with monkeypatch.context() as patch:
            patch.setattr(repository, bound, 1)
            with pytest.raises(DocumentInvalid, match="over what one set takes"):
                copy.files(tip, "fleet")


def test_git_that_says_too_much_or_takes_too_long_is_ended(
    origin: SignedRepository, copy: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    tip = origin.commit()
    copy.fetch()
    with monkeypatch.context() as patch:
        patch.setattr(git_program, "SAID_BYTES_MAX", 8)
        with pytest.raises(git_program.GitFailed, match="said more than 8 bytes"):
            copy.files(tip, "fleet")
    monkeypatch.setattr(git_program, "SECONDS_MAX", 0.0)
    with pytest.raises(git_program.GitFailed, match="took more than 0 s"):
        copy.fetch()


def test_a_fetch_that_brings_too_much_leaves_nothing(
    origin: SignedRepository, copy: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin.write("noise", "".join(chr(33 + (n * n) % 89) for n in range(200_000)))
    tip = origin.commit()
    with monkeypatch.context() as patch:
        patch.setattr(git_program, "FILE_BYTES_MAX", 512)
        with pytest.raises(git_program.GitFailed):
            copy.fetch()

    with pytest.raises(git_program.GitFailed):
        copy.files(tip, "")  # nothing of it is known


def test_fetches_that_are_cut_again_and_again_do_not_fill_the_disk(
    origin: SignedRepository, copy: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a cut one brought stays behind, and anybody who may push can have them cut."""
    place = tmp_path / "copy" / "repository.git"
    origin.write("noise", os.urandom(200_000).hex())
    tip = origin.commit()
    monkeypatch.setattr(repository, "COPY_BYTES_MAX", 60_000)
    with monkeypatch.context() as patch:
        patch.setattr(git_program, "FILE_BYTES_MAX", 50_000)
        for _ in range(4):
            with pytest.raises(git_program.GitFailed):
                copy.fetch()
    held = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
    assert held < 60_000 + 50_000 + 10_000

    assert copy.fetch() == tip, "begun anew, it lacks nothing"


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/x",
        "ext::sh -c touch% /tmp/x",
        "--upload-pack=touch /tmp/x",
        "git://example.com/x",
        "https://user:secret@example.com/x",
        "ssh://-oProxyCommand=x/y",
        "-u:x",
        "relative/path/that/is/not/there",
    ],
)
def test_addresses_that_git_must_not_be_given(url: str) -> None:
    with pytest.raises(ConfigurationInvalid):
        checked_url(url)


def test_addresses_that_are_used(tmp_path: Path) -> None:
    for url in ("https://example.com/x.git", "ssh://git@example.com/x", "git@example.com:a/b.git"):
        assert checked_url(url) == url
    assert checked_url(str(tmp_path)) == str(tmp_path)


@pytest.mark.parametrize(
    "branch", ["-x", "--upload-pack=x", "a..b", "a//b", "x.lock", "a/.b", "a b", "", "a:b", "x^"]
)
def test_branches_that_git_must_not_be_given(branch: str) -> None:
    with pytest.raises(ConfigurationInvalid):
        checked_branch(branch)


@pytest.mark.parametrize("path", ["/etc", "../x", "a/../../b", ":(glob)x", "a\nb"])
def test_paths_that_lead_elsewhere(path: str) -> None:
    with pytest.raises(ConfigurationInvalid):
        checked_path(path)
    assert checked_path("./fleet//north/") == "fleet/north"


def test_a_list_of_signers_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationInvalid, match="no list of signers"):
        Repository(tmp_path, str(tmp_path), "main", tmp_path / "missing")


class Behind:
    """A controller behind a proxy that has lost it; asked through the same two words."""

    def get(self, _path: str, **_parameters: Any) -> Any:
        raise OperatorNeeded("The controller answered 502.", next_step="look at its log.")

    def post(self, _path: str, _content: Mapping[str, Any]) -> Any:
        raise OperatorNeeded("The controller answered 502.", next_step="look at its log.")


def test_a_controller_that_answers_nonsense_for_a_while_does_not_end_the_loop(
    origin: SignedRepository, copy: Repository
) -> None:
    pulling = Pulling(
        set_name="fleet", url=str(origin.tree), branch="main", path="fleet/", prune_max=0
    )

    found = turn(copy, Behind(), pulling)

    assert not found.told
    assert "answered 502" in found.because


class TestTheLoop:
    @pytest.fixture(autouse=True)
    def _loop(self, as_alice: None) -> None:
        """Who pulls is an operator."""

    def pull(self, origin: SignedRepository, name: str, *more: str) -> Said:
        words = ("--repository", origin.tree, "--allowed-signers", origin.signers, "--once")
        place = ("--path", "fleet/", "--set", name, "--state", origin.directory / "state")
        return mailboat("gitops", "run", *words, *place, "--json", *more)

    def row(self, api: RunningApi, name: str) -> SetRow:
        with api.store.read() as tx:
            return gitops.find_set(tx, name)

    def test_what_is_signed_is_applied_and_what_is_not_is_told(
        self, api: RunningApi, origin: SignedRepository
    ) -> None:
        origin.write("fleet/harbour.yaml", SITE.format(name="one"))
        first = origin.commit()
        said = self.pull(origin, "told")
        assert (said.code, said.json["state"], said.json["signer"]) == (0, "in-step", ALICE)
        assert api.ask("GET", "/v1/sites/one", by="vera").status == 200
        assert self.row(api, "told").commit == first

        origin.write("fleet/harbour.yaml", SITE.format(name="two"))
        second = origin.commit(MALLORY)
        said = self.pull(origin, "told")
        assert (said.code, said.json["state"]) == (output.EXIT_CONFLICT, "refused")
        row = self.row(api, "told")
        assert (row.state, row.commit, row.pulled_commit) == ("refused", first, second)
        assert api.ask("GET", "/v1/sites/two", by="vera").status == 404
        status = mailboat("gitops", "status")
        assert "refused" in status.out
        assert "is not signed by anybody in the list of signers" in status.out
        with api.store.read() as tx:
            entry = audit.newest(tx, "set:told", "gitops.state")
        assert entry is not None
        assert entry.details["to"] == "refused"

        third = origin.commit()  # somebody in the list has looked at it
        assert self.pull(origin, "told").json["results"][0]["result"] == "created"
        assert self.row(api, "told").commit == third
        assert api.ask("GET", "/v1/sites/one", by="vera").status == 404, "pruned"

    @pytest.mark.slow
    def test_a_branch_that_goes_back_needs_an_order(
        self, api: RunningApi, origin: SignedRepository
    ) -> None:
        origin.write("fleet/harbour.yaml", SITE.format(name="back"))
        first = origin.commit()
        origin.write("fleet/depot.yaml", SITE.format(name="ahead"))
        origin.commit()
        assert self.pull(origin, "rewound").code == 0
        origin.git("reset", "--quiet", "--hard", first)

        said = self.pull(origin, "rewound")
        assert said.code == output.EXIT_CONFLICT
        assert f"--allow-rewind {first}" in said.json["because"]
        assert self.pull(origin, "rewound", "--allow-rewind", first).code == 0
        assert self.row(api, "rewound").commit == first
        with api.store.read() as tx:
            wanted = audit.Wanted(subject="set:rewound", action="gitops.apply")
            (newest,) = audit.newest_page(tx, limit=1, wanted=wanted)
        assert newest.reason.endswith("and was allowed by hand")

    def test_a_rewind_is_allowed_for_one_turn_and_never_for_a_loop(
        self, origin: SignedRepository
    ) -> None:
        words = ("--repository", origin.tree, "--allowed-signers", origin.signers)

        said = mailboat("gitops", "run", *words, "--path", "fleet/", "--allow-rewind", "a" * 40)

        assert said.code == output.EXIT_USAGE
        assert "--once" in said.err

    @pytest.mark.slow
    def test_drift_is_shown_or_mended(self, api: RunningApi, origin: SignedRepository) -> None:
        origin.write("fleet/harbour.yaml", SITE.format(name="drift"))
        origin.commit()
        assert self.pull(origin, "drift").code == 0
        change = {"broker_host": "by-hand.example"}
        assert api.ask("PATCH", "/v1/sites/drift", by="alice", body=change).status == 200

        said = self.pull(origin, "drift", "--watch-only")
        assert (said.code, said.json["differences"]) == (output.EXIT_DIFFERENT, 1)
        assert (self.row(api, "drift").state, self.row(api, "drift").differences) == ("drifted", 1)
        assert self.pull(origin, "drift").code == 0
        assert self.row(api, "drift").differences == 0

    @pytest.mark.slow
    def test_a_commit_that_would_prune_too_much_is_refused(
        self, api: RunningApi, origin: SignedRepository
    ) -> None:
        for name in ("p-one", "p-two", "p-three"):
            origin.write(f"fleet/{name}.yaml", SITE.format(name=name))
        (origin.tree / "fleet" / "harbour.yaml").unlink()
        origin.commit()
        assert self.pull(origin, "pruned").code == 0
        for name in ("p-one", "p-two"):
            (origin.tree / "fleet" / f"{name}.yaml").unlink()
        origin.commit()

        said = self.pull(origin, "pruned", "--prune-max", "1")
        assert said.code == output.EXIT_CONFLICT
        assert "2 documents would be pruned, more than 1" in said.json["because"]
        assert api.ask("GET", "/v1/sites/p-one", by="vera").status == 200
        assert self.pull(origin, "pruned", "--prune-max", "2").code == 0
        assert api.ask("GET", "/v1/sites/p-one", by="vera").status == 404

    @pytest.mark.slow
    def test_a_repository_out_of_reach_is_told(
        self, api: RunningApi, origin: SignedRepository
    ) -> None:
        origin.commit()
        said = self.pull(origin, "away", "--branch", "there-is-none")

        assert (said.code, said.json["state"]) == (output.EXIT_TIMEOUT, "unreachable")
        assert self.row(api, "away").state == "unreachable"

    @pytest.mark.slow
    def test_a_viewer_cannot_pull(
        self, api: RunningApi, origin: SignedRepository, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        origin.commit()
        monkeypatch.setenv("MAILBOAT_CONNECTION", str(api.connection_file("vera")))
        assert self.pull(origin, "not-mine").code == output.EXIT_NOT_PERMITTED

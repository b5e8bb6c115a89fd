"""Commits of a repository that may be hostile, read with the system's ``git`` and nothing else.

Nothing is checked out: files are read from the object store, so no hook, filter, LFS driver,
submodule or link of a repository ever acts. A signature is checked against our list of signers
alone.
"""

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mailboat_controller.gitops import git_program
from mailboat_controller.gitops.git_access import GitAccess
from mailboat_controller.gitops.git_names import checked_branch, checked_path, checked_url
from mailboat_controller.gitops.git_program import GitFailed
from mailboat_controller.gitops.reading import BYTES_MAX, FILES_MAX, SUFFIXES
from mailboat_schemas.errors import (
    ConfigurationInvalid,
    DocumentInvalid,
    OperatorNeeded,
    SignatureInvalid,
)

ENTRIES_MAX = 10_000  # below the path, whatever they are
COPY_BYTES_MAX = 1 << 30  # on our disk; one that grew beyond is begun anew
REF = "refs/mailboat/pulled"

_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_SIGNED_BY = re.compile(r'^Good "git" signature for (\S+) with ', re.MULTILINE)
_REGULAR, _LINK, _SUBMODULE = ("100644", "100755"), "120000", "160000"


class CommitUnsigned(SignatureInvalid):
    code = "E-GIT-SIGNATURE"

    def __init__(self, commit: str, why: str) -> None:
        super().__init__(
            f"Commit {commit} is not signed by anybody in the list of signers: {why}.",
            next_step="sign it (`git commit -S` with an SSH key), or add its signer's public key "
            "to the file of --allowed-signers.",
        )


class HistoryRewritten(OperatorNeeded):
    code = "E-GIT-HISTORY"

    def __init__(self, commit: str, applied: str) -> None:
        super().__init__(
            f"Commit {commit} does not follow {applied}, which was applied last.",
            next_step="see who rewrote the branch; if it is meant, take that commit by hand: "
            f"`mailboat gitops run --once --allow-rewind {commit}` with the loop's other options.",
        )


@dataclass(frozen=True, slots=True)
class Commit:
    name: str
    signer: str  # as the list of signers calls them


class Repository:
    """A bare copy in a directory of ours; ``url`` and ``branch`` are checked before git sees
    them."""

    def __init__(
        self,
        directory: Path,
        url: str,
        branch: str,
        signers: Path,
        access: GitAccess | None = None,
    ) -> None:
        """
        Raises:
            ConfigurationInvalid: an address, branch or file that git must not be given.
        """
        self._url = checked_url(url)
        self._branch = checked_branch(branch)
        self._signers = signers.resolve()
        if not self._signers.is_file():
            raise ConfigurationInvalid(
                f"There is no list of signers at {signers}.",
                next_step="write one: a line a person, `alice@example ssh-ed25519 AAAA…`.",
            )
        self._access = access or GitAccess()
        self._directory = directory / "repository.git"

    def fetch(self) -> str:
        """The branch's newest commit.

        Raises:
            GitFailed: out of reach, too large, too slow, or git says no.
        """
        self._drop_if_large()
        if not (self._directory / "HEAD").is_file():
            self._directory.mkdir(parents=True, exist_ok=True)
            self._git("init", "--quiet", "--bare", "--template=", ".")
        self._git(
            "fetch",
            "--quiet",
            "--no-tags",
            "--no-recurse-submodules",
            "--no-write-fetch-head",
            "--no-auto-maintenance",
            "--force",  # a rewritten branch is seen, then refused by `follows`
            "--end-of-options",
            self._url,
            f"+refs/heads/{self._branch}:{REF}",
            access=self._access,
        )
        return self._commit(REF)

    def verified(self, commit: str) -> Commit:
        """
        Raises:
            CommitUnsigned: nobody in the list signed exactly this commit.
        """
        try:
            said = self._git("verify-commit", "--raw", commit, speaks_on_error=True)
        except GitFailed as error:
            raise CommitUnsigned(commit, error.what) from error
        found = _SIGNED_BY.search(said.decode(errors="replace"))
        if found is None:
            raise CommitUnsigned(commit, "git names no signer")
        return Commit(commit, found[1])

    def refuse_rewound(self, commit: str, applied: str) -> None:
        """
        Raises:
            HistoryRewritten: ``applied`` is none of the commit's ancestors.
        """
        if not applied or applied == commit:
            return
        try:
            self._git("merge-base", "--is-ancestor", applied, commit)
        except GitFailed as error:
            raise HistoryRewritten(commit, applied) from error

    def files(self, commit: str, path: str) -> list[tuple[str, bytes]]:
        """The documents below a path of a commit, by name.

        Raises:
            DocumentInvalid: too many or too large, or one that is a link or a submodule.
        """
        inside = checked_path(path)
        wanted = [] if not inside else [f"{inside}/"]
        listed = self._git("ls-tree", "-r", "-l", "-z", "--full-tree", commit, "--", *wanted)
        found: list[_Entry] = []
        size_bytes = 0
        for number, entry in enumerate(_entries(listed), start=1):
            if number > ENTRIES_MAX:
                raise _too_much(inside)
            if not _is_document(entry.name):
                continue
            if entry.mode not in _REGULAR:
                kind = {_LINK: "a link", _SUBMODULE: "a submodule"}.get(entry.mode, "no file")
                raise DocumentInvalid(
                    entry.name, f"is {kind}", next_step="put the file itself there."
                )
            size_bytes += entry.size_bytes
            if len(found) >= FILES_MAX or size_bytes > BYTES_MAX:
                raise _too_much(entry.name)
            found.append(entry)
        return [(entry.name, self._git("cat-file", "blob", entry.blob)) for entry in found]

    def _drop_if_large(self) -> None:
        """git leaves what a cut fetch brought, and whoever may push can have each one cut."""
        files = (each.lstat() for each in self._directory.rglob("*"))
        if sum(each.st_size for each in files) > COPY_BYTES_MAX:
            shutil.rmtree(self._directory)

    def _commit(self, ref: str) -> str:
        said = self._git("rev-parse", "--verify", "--end-of-options", f"{ref}^{{commit}}")
        name = said.decode(errors="replace").strip()
        if _COMMIT.fullmatch(name) is None:
            raise git_program.failed("it names no commit")
        return name

    def _git(
        self, *words: str, access: GitAccess | None = None, speaks_on_error: bool = False
    ) -> bytes:
        """What it says; with ``speaks_on_error`` what it says on standard error."""
        return git_program.run(
            words,
            self._directory,
            signers=self._signers,
            access=access or GitAccess(),
            speaks_on_error=speaks_on_error,
        )


@dataclass(frozen=True, slots=True)
class _Entry:
    mode: str
    blob: str
    size_bytes: int
    name: str


def _entries(listed: bytes) -> Iterator[_Entry]:
    for line in listed.split(b"\0"):
        facts, separator, name = line.partition(b"\t")
        if not separator:
            continue
        mode, _kind, blob, size = facts.decode("ascii").split()
        yield _Entry(mode, blob, int(size) if size.isdigit() else 0, name.decode(errors="replace"))


def _is_document(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix in SUFFIXES and not any(part.startswith(".") for part in path.parts)


def _too_much(place: str) -> DocumentInvalid:
    return DocumentInvalid(
        place or "the repository",
        f"is over what one set takes: {FILES_MAX} documents' files, {BYTES_MAX} bytes, "
        f"{ENTRIES_MAX} files in all",
        next_step="name a smaller directory with --path, or make two sets of it.",
    )

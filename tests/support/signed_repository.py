"""A repository on disk whose commits are signed with SSH keys, as people make them."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

ALICE, MALLORY = "alice@example", "mallory@example"


@dataclass(frozen=True)
class SignedRepository:
    """``signers`` lists alice; mallory has a key that nobody listed."""

    directory: Path

    @classmethod
    def make(cls, directory: Path) -> "SignedRepository":
        directory.mkdir()
        found = cls(directory)
        for name in (ALICE, MALLORY):
            key = found.key(name)
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", key],
                check=True,
            )
        public = found.key(ALICE).with_suffix(".pub").read_text()
        found.signers.write_text(f'{ALICE} namespaces="git" {public}')
        found.tree.mkdir()
        found.git("init", "--quiet", "--initial-branch=main", ".")
        return found

    @property
    def tree(self) -> Path:
        return self.directory / "work"

    @property
    def signers(self) -> Path:
        return self.directory / "signers"

    def key(self, name: str) -> Path:
        return self.directory / name.partition("@")[0]

    def git(self, *words: str) -> str:
        settings = ("user.name=x", "user.email=x@example", "gpg.format=ssh", "core.hooksPath=")
        command = ["git", *(part for each in settings for part in ("-c", each)), *words]
        environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
        done = subprocess.run(
            command, cwd=self.tree, env=environment, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    def write(self, name: str, text: str) -> None:
        file = self.tree / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def commit(self, signer: str | None = ALICE) -> str:
        """Everything there is, signed or not; returns the commit."""
        self.git("add", "--all")
        signing = ["--no-gpg-sign"]
        if signer is not None:
            key = self.key(signer).with_suffix(".pub")
            signing = [f"--gpg-sign={key}"]
        self.git("commit", "--quiet", "--allow-empty", "--message=x", *signing)
        return self.git("rev-parse", "HEAD")

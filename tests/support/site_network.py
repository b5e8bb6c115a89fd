"""A site in a network namespace of its own: one cable to the centre, which can be cut."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Self

CENTRE_NAME = "centre.mailboat.test"
HOSTS = Path("/etc/netns")  # what `ip netns exec` shows as /etc


class SiteNetwork:
    """The centre is this machine, at `centre`; the site is at the cable's other end.

    ``cut`` takes the carrier away; ``swallow`` has the site drop every packet without a word, so
    that both ends keep a connection which nobody answers on.
    """

    def __init__(self) -> None:
        number = os.getpid() % 16_000
        self._name = f"mailboat-{number}"
        self._here, self._there = f"mbc{number}", f"mbs{number}"
        third, fourth = divmod(number, 64)
        network = f"10.211.{third}"
        self.centre = f"{network}.{fourth * 4 + 1}"
        self._site = f"{network}.{fourth * 4 + 2}"

    @staticmethod
    def problem() -> str | None:
        """Why there cannot be one here; None: there can."""
        missing = [name for name in ("ip", "iptables") if shutil.which(name) is None]
        if missing:
            return f"{', '.join(missing)} is not installed"
        probe = f"mailboat-probe-{os.getpid()}"
        made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, check=False)
        if made.returncode != 0:
            said = made.stderr.decode().strip()
            return f"network namespaces cannot be made here: {said}"
        subprocess.run(["ip", "netns", "delete", probe], check=True)
        return None

    def __enter__(self) -> Self:
        hosts = HOSTS / self._name / "hosts"
        hosts.parent.mkdir(parents=True)
        hosts.write_text(f"127.0.0.1 localhost\n{self.centre} {CENTRE_NAME}\n")
        _run("ip", "netns", "add", self._name)
        ends = ("type", "veth", "peer", "name", self._there, "netns", self._name)
        _run("ip", "link", "add", self._here, *ends)
        _run("ip", "address", "add", f"{self.centre}/30", "dev", self._here)
        _run("ip", "link", "set", self._here, "up")
        self._run_there("ip", "address", "add", f"{self._site}/30", "dev", self._there)
        self._run_there("ip", "link", "set", "lo", "up")
        self._run_there("ip", "link", "set", self._there, "up")
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["ip", "link", "delete", self._here], capture_output=True, check=False)
        subprocess.run(["ip", "netns", "delete", self._name], capture_output=True, check=False)
        shutil.rmtree(HOSTS / self._name, ignore_errors=True)

    def at_site(self, *words: str) -> list[str]:
        """A command as it is run at the site."""
        return ["ip", "netns", "exec", self._name, *words]

    def cut(self) -> None:
        _run("ip", "link", "set", self._here, "down")

    def swallow(self) -> None:
        for chain, side in (("INPUT", "-i"), ("OUTPUT", "-o")):
            self._run_there("iptables", "-I", chain, side, self._there, "-j", "DROP")

    def heal(self) -> None:
        _run("ip", "link", "set", self._here, "up")
        self._run_there("iptables", "-F")

    def _run_there(self, *words: str) -> None:
        _run(*self.at_site(*words))


def _run(*words: str) -> None:
    ended = subprocess.run(words, capture_output=True, check=False)
    assert ended.returncode == 0, f"{words}: {ended.stderr.decode()}"

"""How ``git`` reaches a repository over https: whose certificates, by which proxy, as whom."""

import base64
import re
from dataclasses import dataclass
from pathlib import Path

from mailboat_controller.authority.secret_files import read_secret_file
from mailboat_schemas.errors import ConfigurationInvalid

CREDENTIAL_BYTES_MAX = 4096
_PROXY = re.compile(r"(?:https?|socks5h?)://[A-Za-z0-9.:\[\]-]+/?")
_CREDENTIAL = re.compile(r"[\x21-\x39\x3b-\x7e]+:[\x20-\x7e]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class GitAccess:
    """Made by `checked_access`. Without any of it: the system's authorities, no proxy, nobody."""

    ca: Path | None = None
    proxy: str = ""
    credential: Path | None = None  # a file of one line, user:secret

    def settings(self) -> tuple[str, ...]:
        """For the command line of git, which everybody on this machine can read."""
        ca = () if self.ca is None else (f"http.sslCAInfo={self.ca}",)
        return (*ca, f"http.proxy={self.proxy}")

    def environment(self) -> dict[str, str]:
        """For its environment, which only its owner can read. The file is read each time: a secret
        may be exchanged while the loop runs.

        Raises:
            ConfigurationInvalid: the file cannot be read, is open to everybody, or holds none.
        """
        if self.credential is None:
            return {}
        said = read_secret_file(self.credential, CREDENTIAL_BYTES_MAX)
        if _CREDENTIAL.fullmatch(said) is None:
            raise ConfigurationInvalid(
                f"{self.credential} holds no credential.",
                next_step="write one line, `user:token`; which user a token has says the host.",
            )
        # No redirect is followed (`git_program`), so it goes to the repository's host alone.
        basic = base64.b64encode(said.encode()).decode()
        return {
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "http.extraHeader",
            "GIT_CONFIG_VALUE_0": f"Authorization: Basic {basic}",
        }


def checked_access(url: str, ca: Path | None, proxy: str, credential: Path | None) -> GitAccess:
    """
    Raises:
        ConfigurationInvalid: of another transport than https, a file that is not there, or a proxy
            that is none or has a password in its address.
    """
    if (ca is not None or proxy or credential is not None) and not url.startswith("https://"):
        raise ConfigurationInvalid(
            "A CA, a proxy and a credential are for a repository at https://.",
            next_step="leave them out; ssh has its own in ~/.ssh/config.",
        )
    if ca is not None and not ca.is_file():
        raise ConfigurationInvalid(
            f"There is no file of certificates at {ca}.", next_step="name the CA's PEM file."
        )
    if proxy and _PROXY.fullmatch(proxy) is None:
        raise ConfigurationInvalid(
            "The proxy is no address that is used here.",
            next_step="write http://proxy.example:3128, without a user or a password.",
        )
    return GitAccess(
        ca=None if ca is None else ca.resolve(),
        proxy=proxy,
        credential=None if credential is None else credential.resolve(),
    )

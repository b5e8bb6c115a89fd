"""Credentials for registries, from where Docker, Podman and oras keep them; never an argument.

Also the dance by which a registry says where tokens are and gives one.
Source: distribution, "Token Authentication Specification".
"""

import base64
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode

from mailboat_controller.https_stream import HttpsStream
from mailboat_controller.sources.source import SourceRefused
from mailboat_schemas.errors import ConfigurationInvalid, NotPermitted

USER_VARIABLE = "MAILBOAT_REGISTRY_USER"
PASSWORD_VARIABLE = "MAILBOAT_REGISTRY_PASSWORD"  # noqa: S105  a name
CONFIG_BYTES_MAX = 1 << 20
TOKEN_BYTES_MAX = 64 * 1024
_PARAMETER = re.compile(r'(\w+)="([^"]{0,2000})"')


@dataclass(frozen=True, slots=True)
class Credentials:
    user: str
    password: str = field(repr=False)

    def header(self) -> str:
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()


def credentials_for(
    registry: str, config: Path | None, environment: Mapping[str, str]
) -> Credentials | None:
    """From two variables, or a ``config.json``: the one named, $DOCKER_CONFIG's, or the user's.

    Raises:
        ConfigurationInvalid: the file that was named is none, or leaves it to a helper program.
    """
    user, password = environment.get(USER_VARIABLE), environment.get(PASSWORD_VARIABLE)
    if user and password:
        return Credentials(user, password)
    path = config or Path(
        environment.get("DOCKER_CONFIG") or Path.home() / ".docker", "config.json"
    )
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(CONFIG_BYTES_MAX))
        entry = found.get("auths", {}).get(registry)
        if entry is None:
            return None
        text = base64.b64decode(entry["auth"], validate=True).decode()
    except FileNotFoundError as error:
        if config is None:
            return None
        raise _unusable(path, "it is not there") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        # Not the error's own text: it quotes what it could not read.
        raise _unusable(path, f"it has no `auth` for {registry} that can be read") from error
    user, _, password = text.partition(":")
    return Credentials(user, password)


def _unusable(path: Path, problem: str) -> ConfigurationInvalid:
    return ConfigurationInvalid(
        f"Credentials cannot be taken from {path}: {problem}.",
        next_step=f"log in with a tool that keeps them in the file (not in a credential helper), "
        f"or set {USER_VARIABLE} and {PASSWORD_VARIABLE}.",
    )


def from_environment(registry: str, config: Path | None) -> Credentials | None:
    return credentials_for(registry, config, os.environ)


def authorization(
    stream: HttpsStream, challenge: str, repository: str, credentials: Credentials | None
) -> str:
    """The header that answers a registry's ``WWW-Authenticate``.

    Raises:
        NotPermitted: it wants credentials that are not there, or not these.
        SourceRefused: it asks for something else.
    """
    kind, _, rest = challenge.partition(" ")
    if kind.lower() == "basic":
        if credentials is None:
            raise _not_permitted("wants a user and a password")
        return credentials.header()
    named = dict(_PARAMETER.findall(rest[:8192]))
    if kind.lower() != "bearer" or "realm" not in named:
        raise SourceRefused(
            f"The registry asks for an unknown kind of login: {kind[:32]!r}.",
            next_step="is it an OCI registry?",
        )
    query = {"scope": f"repository:{repository}:pull"}
    if "service" in named:
        query["service"] = named["service"]
    headers = {} if credentials is None else {"Authorization": credentials.header()}
    url = f"{named['realm']}{'&' if '?' in named['realm'] else '?'}{urlencode(query)}"
    answer = stream.get(url, headers, kind="registry token", bytes_max=TOKEN_BYTES_MAX)
    try:
        found = json.loads(answer.content) if answer.status == 200 else {}
        token = found.get("token") or found.get("access_token")
    except (ValueError, AttributeError):
        token = None
    if not isinstance(token, str) or not token.isascii() or not token.isprintable():
        raise _not_permitted(f"gives no token (status {answer.status})")
    return f"Bearer {token}"


def _not_permitted(problem: str) -> NotPermitted:
    return NotPermitted(
        f"The registry {problem}.",
        next_step=f"log in with `oras login` or `docker login`, name that file with "
        f"--registry-config, or set {USER_VARIABLE} and {PASSWORD_VARIABLE}.",
    )

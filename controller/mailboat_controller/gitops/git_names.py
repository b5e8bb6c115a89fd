"""Addresses, branches and paths that git may be given: no option, no other ref, no secret."""

import re
from pathlib import Path, PurePosixPath

from mailboat_schemas.errors import ConfigurationInvalid

_BRANCH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+-]{0,199}")
_SCP = re.compile(r"(?:[A-Za-z0-9._-]+@)?[A-Za-z0-9][A-Za-z0-9.-]*:[^:].*")


def checked_url(url: str) -> str:
    """
    Raises:
        ConfigurationInvalid: a transport we do not use, or a secret in the address.
    """
    place = Path(url)
    if url.startswith("/") or (not url.startswith("-") and "::" not in url and place.is_dir()):
        return str(place.resolve())
    scheme, separator, rest = url.partition("://")
    known = separator and scheme in ("https", "ssh", "file")
    if not (known or (not separator and _SCP.fullmatch(url) and "::" not in url)):
        raise ConfigurationInvalid(
            f"The repository {url[:200]!r} is at no address that is used here.",
            next_step="write https://…, ssh://…, user@host:path, or a directory.",
        )
    if scheme == "https" and "@" in rest.partition("/")[0]:
        raise ConfigurationInvalid(
            "The repository's address holds a user or a password.",
            next_step="keep them in the file of --credential-file, or use SSH.",
        )
    if rest.startswith("-") or not url.isprintable():
        raise ConfigurationInvalid(
            "The repository's address is no host.", next_step="write https://host/path."
        )
    return url


def checked_branch(branch: str) -> str:
    """
    Raises:
        ConfigurationInvalid: what git would read as an option, a range or another ref.
    """
    bad = (
        _BRANCH.fullmatch(branch) is None
        or ".." in branch
        or "//" in branch
        or branch.endswith(("/", ".", ".lock"))
        or "/." in branch
    )
    if bad:
        raise ConfigurationInvalid(
            f"{branch[:200]!r} is no name of a branch that is used here.",
            next_step="name one of letters, digits and inner . _ / + -.",
        )
    return branch


def checked_path(path: str) -> str:
    """A directory inside the repository, without slashes around it; "" for all of it.

    Raises:
        ConfigurationInvalid: it leads elsewhere, or means something to git.
    """
    parts = PurePosixPath(path).parts
    absolute = path.startswith("/")
    if absolute or ".." in parts or not path.isprintable() or path.startswith(":"):
        raise ConfigurationInvalid(
            f"{path[:200]!r} is no directory inside a repository.",
            next_step="write one such as fleet/.",
        )
    return "/".join(part for part in parts if part != ".")

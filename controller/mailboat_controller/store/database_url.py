"""A database's URL as an operator names it, and what of it others may read."""

from pathlib import Path

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from mailboat_schemas.errors import ConfigurationInvalid

URL_LENGTH_MAX = 4096
_FORMS = "sqlite:////absolute/path/mailboat.db or postgresql+psycopg://user@host/name"


def named(url: str, file: Path | None) -> str:
    """The one of the two that was given.

    Raises:
        ConfigurationInvalid: none or both were, the file cannot be read, or the URL that everybody
            on the machine can see has a password in it.
    """
    if bool(url) == (file is not None):
        raise ConfigurationInvalid(
            "Name the target once.", next_step="write --to URL, or --to-file FILE with the URL."
        )
    if file is not None:
        return _read(file)
    if _has_password(url):
        raise ConfigurationInvalid(
            "There is a password in the URL, and whoever lists processes reads it.",
            next_step="write the URL into a file that only you can read and name that with "
            "--to-file, or leave the password out: it is taken from PGPASSFILE or ~/.pgpass.",
        )
    return url


def _has_password(url: str) -> bool:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        # Nothing of it is repeated: it may be a password that made it unreadable.
        raise unreadable() from error
    return parsed.password is not None or "password" in parsed.query


def _read(file: Path) -> str:
    try:
        with file.open() as opened:
            content = opened.read(URL_LENGTH_MAX + 1).strip()
    except (OSError, ValueError) as error:
        raise ConfigurationInvalid(
            f"The URL in {file} cannot be read: {type(error).__name__}.",
            next_step="check the path and its rights; the file holds one line of text.",
        ) from error
    if not content or len(content) > URL_LENGTH_MAX or "\n" in content:
        raise ConfigurationInvalid(
            f"{file} holds no URL of at most {URL_LENGTH_MAX} characters in one line.",
            next_step=f"write {_FORMS} into it.",
        )
    return content


def unreadable() -> ConfigurationInvalid:
    return ConfigurationInvalid(
        "The database URL cannot be read.",
        next_step=f"write it as {_FORMS}; characters such as @ : / in a password as %40 %3A %2F.",
    )


def unusable(problem: str) -> ConfigurationInvalid:
    return ConfigurationInvalid(
        f"The database URL cannot be used: {problem.strip()}.",
        next_step=f"write it as {_FORMS} (with the psycopg package installed).",
    )

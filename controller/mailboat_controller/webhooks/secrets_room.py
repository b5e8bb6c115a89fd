"""Where the secrets of webhooks are: one file each on the controller's disk, for its user alone.

A line holds a secret; a second one the secret before it, and until when it signs as well, so that
a receiver may be given the new one in its own time.
"""

from datetime import datetime, timedelta
from pathlib import Path

from mailboat_controller.durable_file import replace_durably
from mailboat_controller.webhooks.signing import key_of
from mailboat_schemas.errors import ConfigurationInvalid

FILE_BYTES_MAX = 1024
SUFFIX = ".secret"
BOTH_FOR = timedelta(days=1)  # that the old secret signs beside the new one


def keep(directory: Path, name: str, secret: str) -> None:
    """
    Raises:
        ConfigurationInvalid: it is no secret.
    """
    key_of(secret)
    _write(directory, name, secret.strip())


def renew(directory: Path, name: str, secret: str, now: datetime) -> datetime:
    """Sign with another secret from here on, and with the one before until what is returned.

    Raises:
        ConfigurationInvalid: it is no secret.
    """
    key_of(secret)
    until = now + BOTH_FOR
    try:
        before = _lines(directory, name)[0]
        key_of(before)
    except ConfigurationInvalid:
        _write(directory, name, secret.strip())  # a lost one is mended by this
        return now
    _write(directory, name, f"{secret.strip()}\n{before.strip()} {until.isoformat()}")
    return until


def read(directory: Path, name: str, now: datetime) -> tuple[bytes, ...]:
    """The keys that sign now, the newest first.

    Raises:
        ConfigurationInvalid: the file is gone, or holds no secret.
    """
    newest, *older = _lines(directory, name)
    keys = [key_of(newest)]
    for line in older[:1]:
        secret, _, until = line.strip().partition(" ")
        if now < _instant(until, now):
            keys.append(key_of(secret))
    return tuple(keys)


def forget(directory: Path, name: str) -> None:
    (directory / f"{name}{SUFFIX}").unlink(missing_ok=True)


def _lines(directory: Path, name: str) -> list[str]:
    path = directory / f"{name}{SUFFIX}"
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX)
    except OSError as error:
        raise ConfigurationInvalid(
            f"The secret of webhook {name} cannot be read: {error.strerror}.",
            next_step=f"bring {path.name} back, or give it another: mailboat webhook secret.",
        ) from error
    return content.decode(errors="replace").splitlines() or [""]


def _write(directory: Path, name: str, content: str) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    replace_durably(directory / f"{name}{SUFFIX}", content.encode() + b"\n")


def _instant(text: str, otherwise: datetime) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return otherwise
    return otherwise if found.tzinfo is None else found

"""Where the secrets of webhooks are: one file each on the controller's disk, for its user alone.

A line holds a secret; a second one the secret before it, and until when it signs as well, so that
a receiver may be given the new one in its own time.

A file is written once, under a name that no other had, and is in force from the commit that names
it. So whatever comes between, a crash or a transaction that fails, the database names a file that
is there; what it does not name is left over, and `sweep` takes it away.
"""

import contextlib
import secrets
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from pathlib import Path

from mailboat_controller.durable_file import replace_durably
from mailboat_controller.webhooks.signing import key_of
from mailboat_schemas.errors import ConfigurationInvalid

FILE_BYTES_MAX = 1024
SUFFIX = ".secret"
BOTH_FOR = timedelta(days=1)  # that the old secret signs beside the new one
LEFT_OVER_AFTER = timedelta(hours=1)  # the commit that names a younger one may be on its way


def keep(directory: Path, name: str, secret: str) -> str:
    """The name of its file, which a commit must name next.

    Raises:
        ConfigurationInvalid: it is no secret.
    """
    key_of(secret)
    return _write(directory, name, secret.strip())


def renew(
    directory: Path, name: str, file: str, secret: str, now: datetime
) -> tuple[str, datetime]:
    """Another secret: its file, which a commit must name next, and until when that in ``file``
    signs as well.

    Raises:
        ConfigurationInvalid: it is no secret.
    """
    key_of(secret)
    until = now + BOTH_FOR
    try:
        before = _lines(directory, name, file)[0]
        key_of(before)
    except ConfigurationInvalid:
        return _write(directory, name, secret.strip()), now  # a lost one is mended by this
    both = f"{secret.strip()}\n{before.strip()} {until.isoformat()}"
    return _write(directory, name, both), until


def read(directory: Path, name: str, file: str, now: datetime) -> tuple[bytes, ...]:
    """The keys that sign now, the newest first.

    Raises:
        ConfigurationInvalid: the file is gone, or holds no secret.
    """
    newest, *older = _lines(directory, name, file)
    keys = [key_of(newest)]
    for line in older[:1]:
        secret, _, until = line.strip().partition(" ")
        if now < _instant(until, now):
            keys.append(key_of(secret))
    return tuple(keys)


def forget(directory: Path, file: str) -> None:
    """After the commit that no longer names it."""
    (directory / file).unlink(missing_ok=True)


def sweep(directory: Path, named: Collection[str], now: datetime) -> int:
    """Take away what no webhook names, and names since a while; how many files."""
    swept = 0
    for path in directory.iterdir() if directory.is_dir() else ():
        if path.name in named:
            continue
        with contextlib.suppress(FileNotFoundError):
            written_at = datetime.fromtimestamp(path.stat().st_mtime, UTC)
            if now - written_at >= LEFT_OVER_AFTER:
                path.unlink()
                swept += 1
    return swept


def _lines(directory: Path, name: str, file: str) -> list[str]:
    path = directory / file
    try:
        with path.open("rb") as opened:
            content = opened.read(FILE_BYTES_MAX)
    except OSError as error:
        raise ConfigurationInvalid(
            f"The secret of webhook {name} cannot be read: {error.strerror}.",
            next_step=f"bring {path.name} back, or give it another: mailboat webhook secret.",
        ) from error
    return content.decode(errors="replace").splitlines() or [""]


def _write(directory: Path, name: str, content: str) -> str:
    file = f"{name}.{secrets.token_hex(8)}{SUFFIX}"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    replace_durably(directory / file, content.encode() + b"\n")
    return file


def _instant(text: str, otherwise: datetime) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return otherwise
    return otherwise if found.tzinfo is None else found

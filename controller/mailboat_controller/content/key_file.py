"""The content key on a publisher's side: made with the build, kept beside it, or from elsewhere.

``BUILD/content-key`` holds it as 64 hex digits, readable by its owner only. A *source* names one
that is kept elsewhere, as for signing keys: a path, ``file:PATH``, ``fd:N`` or ``env:NAME``; never
the key itself, because others see a command line.
"""

import os
import secrets
from pathlib import Path

from mailboat_controller.authority.keys import refuse_secret
from mailboat_controller.durable_file import replace_durably
from mailboat_schemas.content_key import CONTENT_KEY_BYTES
from mailboat_schemas.errors import ConfigurationInvalid

FILE_NAME = "content-key"
_SOURCE_BYTES_MAX = 4096


def key_of_build(directory: Path, source: str | None) -> bytes:
    """The key from a source; else the build's own, which is made if there is none.

    Raises:
        ConfigurationInvalid: the source holds no content key.
    """
    if source is not None:
        return read_key(source)
    path = directory / FILE_NAME
    if not path.exists():
        key = secrets.token_bytes(CONTENT_KEY_BYTES)
        directory.mkdir(parents=True, exist_ok=True)
        replace_durably(path, key.hex().encode() + b"\n")
    return read_key(str(path))


def held_key(directory: Path, source: str | None) -> bytes | None:
    """The same without making one; None when there is none."""
    if source is None and not (directory / FILE_NAME).exists():
        return None
    return read_key(source or str(directory / FILE_NAME))


def read_key(source: str) -> bytes:
    """
    Raises:
        ConfigurationInvalid: unreadable, or not 64 hex digits. What was read is not quoted, nor is
            a source that looks like the key itself.
    """
    refuse_secret(source)
    kind, colon, rest = source.partition(":")
    try:
        match kind if colon else "":
            case "fd":
                content = os.read(int(rest), _SOURCE_BYTES_MAX)
            case "env":
                content = os.environ.get(rest, "").encode()
            case _:
                with Path(rest if colon and kind == "file" else source).open("rb") as file:
                    content = file.read(_SOURCE_BYTES_MAX)
        key = bytes.fromhex(content.decode("ascii").strip())
    except (OSError, ValueError) as error:
        problem = error.strerror if isinstance(error, OSError) else "not hex digits"
        raise _no_key(source, str(problem)) from None
    if len(key) != CONTENT_KEY_BYTES:
        raise _no_key(source, f"{len(key)} bytes, not {CONTENT_KEY_BYTES}")
    return key


def _no_key(source: str, problem: str) -> ConfigurationInvalid:
    return ConfigurationInvalid(
        f"No content key can be read from {source[:200]}: {problem}.",
        next_step="name a file, fd:N or env:NAME that holds 64 hex digits.",
    )

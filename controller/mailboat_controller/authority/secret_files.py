"""Secrets in files: passphrases and PINs, bounded, without the line end that editors leave."""

import os
import stat
from pathlib import Path

from mailboat_schemas.errors import ConfigurationInvalid


def read_secret_file(path: Path, bytes_max: int) -> str:
    """A secret from a file, without the line end that editors leave.

    Raises:
        ConfigurationInvalid: unreadable, open to everybody on this machine, too long, or not text.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode  # of what is read, whatever a link says later
            content = file.read(bytes_max + 1)
        text = content.decode().rstrip("\r\n")
    except (OSError, ValueError) as error:
        problem = error.strerror if isinstance(error, OSError) else "not text"
        raise _unreadable_secret(path, str(problem)) from error
    if stat.S_ISREG(mode) and mode & stat.S_IRWXO:
        raise ConfigurationInvalid(
            f"The secret in {path} is open to everybody on this machine.",
            next_step=f"close it with `chmod 600 {path}`; if others could read it, it is a secret "
            "no more: make a new one.",
        )
    if len(content) > bytes_max:
        raise _unreadable_secret(path, f"over {bytes_max} bytes")
    return text


def _unreadable_secret(path: Path, problem: str) -> ConfigurationInvalid:
    return ConfigurationInvalid(
        f"The secret in {path} cannot be read: {problem}.", next_step="check the file."
    )

"""A secret in a file of its own, read anew whenever it is needed."""

import os
import stat
from pathlib import Path

from mailboat_schemas.errors import ConfigurationInvalid

SECRET_BYTES_MAX = 4096


def read_secret(path: Path) -> str:
    """The first line. No error repeats what stands there.

    Raises:
        ConfigurationInvalid: missing, empty, no text, or open to everybody on this machine.
    """
    return read_secrets(path)[0]


def read_secrets(path: Path) -> tuple[str, ...]:
    """Every line that is not empty."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(SECRET_BYTES_MAX).decode("ascii")
    except (OSError, ValueError) as error:
        problem = error.strerror if isinstance(error, OSError) else "it is no text"
        raise _unusable(path, str(problem)) from error
    if mode & stat.S_IRWXO:
        raise ConfigurationInvalid(
            f"{path} holds a secret and is open to everybody on this machine.",
            next_step=f"close it with `chmod 600 {path}`, and replace the secret.",
        )
    lines = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not lines or not all(line.isprintable() for line in lines):
        raise _unusable(path, "it holds no secret")
    return lines


def _unusable(path: Path, problem: str) -> ConfigurationInvalid:
    return ConfigurationInvalid(
        f"The secret in {path} cannot be used: {problem}.",
        next_step="write it on one line of that file, for its owner alone.",
    )

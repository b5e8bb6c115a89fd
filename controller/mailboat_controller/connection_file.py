"""A person's or pipeline's connection file: TOML, with paths relative to where it stands."""

import json
import os
import stat
import tomllib
from pathlib import Path
from typing import BinaryIO

from pydantic import ValidationError

from mailboat_controller.access.people import TOKEN_CHARS_MAX, Token, parse_token
from mailboat_controller.durable_file import replace_durably
from mailboat_schemas.enrolment import Connection
from mailboat_schemas.errors import ConfigurationInvalid

FILE_NAME = "connection.toml"
TOKEN_FILE = "token"  # noqa: S105  a name beside the connection file, no secret
FILE_BYTES_MAX = 64 * 1024


def load_connection(path: Path) -> Connection:
    """
    Raises:
        ConfigurationInvalid: missing, unreadable, one that anybody may change, or not a connection.
    """
    try:
        with path.open("rb") as file:
            refuse_changeable(file, path)
            content = file.read(FILE_BYTES_MAX)
        return Connection.model_validate(tomllib.loads(content.decode()))
    except (OSError, ValueError) as error:
        problem = str(error)
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            problem = f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
        raise ConfigurationInvalid(
            f"The connection file {path} cannot be used: {problem}.",
            next_step="name one with --connection or MAILBOAT_CONNECTION; `mailboat token issue` "
            "makes it for people, `mailboat credential issue` for pipelines and dashboards.",
        ) from error


def refuse_changeable(file: BinaryIO, path: Path) -> None:
    """Whoever can change where commands go to has their token sent there.

    Raises:
        ConfigurationInvalid: everybody on this machine may write it.
    """
    if os.fstat(file.fileno()).st_mode & stat.S_IWOTH:
        raise ConfigurationInvalid(
            f"Everybody on this machine may change {path}, which says where your commands go.",
            next_step=f"look at what stands there, then `chmod 600 {path}`.",
        )


def save_connection(path: Path, connection: Connection) -> None:
    # A JSON string is a TOML basic string, and there is nothing here but strings and numbers.
    content = connection.model_dump(exclude_none=True)
    lines = [f"{name} = {json.dumps(value)}" for name, value in content.items()]
    replace_durably(path, ("\n".join(lines) + "\n").encode())


def load_token(path: Path) -> Token:
    """The access token in a file of its own. No error repeats what stands there.

    Raises:
        ConfigurationInvalid: missing, open to everybody on this machine, or no token.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(TOKEN_CHARS_MAX + 1).decode("ascii")
    except (OSError, ValueError) as error:
        problem = error.strerror if isinstance(error, OSError) else "it is no text"
        raise _unusable(path, f"{problem}") from error
    if mode & stat.S_IRWXO:
        raise ConfigurationInvalid(
            f"The token file {path} is open to everybody on this machine.",
            next_step=f"close it with `chmod 600 {path}`; if others could read it, revoke the "
            "token and ask for a new one.",
        )
    token = parse_token(text.strip())
    if token is None or len(text) > TOKEN_CHARS_MAX:
        raise _unusable(path, "it holds no access token")
    return token


def token_path(connection_path: Path) -> Path:
    """Where the token of a connection stands.

    Raises:
        ConfigurationInvalid: it has none.
    """
    connection = load_connection(connection_path)
    if connection.token is None:
        raise ConfigurationInvalid(
            f"The connection {connection.name} has a certificate and no token.",
            next_step="issue a new one with `mailboat credential issue` before it ends.",
        )
    return connection_path.parent / connection.token


def replace_token(path: Path, text: str) -> None:
    """Put a renewed token in the place of the old one, which stays until that is done.

    Raises:
        ConfigurationInvalid: this is no token.
    """
    if parse_token(text) is None:
        raise _unusable(path, "what should replace it is no access token")
    replace_durably(path, f"{text}\n".encode())


def _unusable(path: Path, problem: str) -> ConfigurationInvalid:
    return ConfigurationInvalid(
        f"The token in {path} cannot be used: {problem}.",
        next_step="keep the token file beside the connection file, or ask for a new one: "
        "`mailboat token issue` on the controller's machine.",
    )

"""A person's or pipeline's connection file: TOML, with paths relative to where it stands."""

import json
import tomllib
from pathlib import Path

from pydantic import ValidationError

from mailboat_controller.durable_file import replace_durably
from mailboat_schemas.enrolment import Connection
from mailboat_schemas.errors import ConfigurationInvalid

FILE_NAME = "connection.toml"
FILE_BYTES_MAX = 64 * 1024


def load_connection(path: Path) -> Connection:
    """
    Raises:
        ConfigurationInvalid: missing, unreadable, or not a connection.
    """
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX)
        return Connection.model_validate(tomllib.loads(content.decode()))
    except (OSError, ValueError) as error:
        problem = str(error)
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            problem = f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
        raise ConfigurationInvalid(
            f"The connection file {path} cannot be used: {problem}.",
            next_step="name one with --connection or MAILBOAT_CONNECTION; "
            "`mailboat credential issue` makes it.",
        ) from error


def save_connection(path: Path, connection: Connection) -> None:
    # A JSON string is a TOML basic string, and there is nothing here but strings and numbers.
    lines = [f"{name} = {json.dumps(value)}" for name, value in connection.model_dump().items()]
    replace_durably(path, ("\n".join(lines) + "\n").encode())

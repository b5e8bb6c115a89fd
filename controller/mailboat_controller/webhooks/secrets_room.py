"""Where the secrets of webhooks are: one file each on the controller's disk, for its user alone."""

from pathlib import Path

from mailboat_controller.durable_file import replace_durably
from mailboat_controller.webhooks.signing import key_of
from mailboat_schemas.errors import ConfigurationInvalid

SECRET_BYTES_MAX = 1024
SUFFIX = ".secret"


def keep(directory: Path, name: str, secret: str) -> None:
    """
    Raises:
        ConfigurationInvalid: it is no secret.
    """
    key_of(secret)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    replace_durably(directory / f"{name}{SUFFIX}", secret.strip().encode() + b"\n")


def read(directory: Path, name: str) -> bytes:
    """The key itself.

    Raises:
        ConfigurationInvalid: the file is gone, or holds no secret.
    """
    path = directory / f"{name}{SUFFIX}"
    try:
        with path.open("rb") as file:
            content = file.read(SECRET_BYTES_MAX)
    except OSError as error:
        raise ConfigurationInvalid(
            f"The secret of webhook {name} cannot be read: {error.strerror}.",
            next_step=f"bring {path.name} back, or remove the webhook and add it again.",
        ) from error
    return key_of(content.decode(errors="replace"))


def forget(directory: Path, name: str) -> None:
    (directory / f"{name}{SUFFIX}").unlink(missing_ok=True)

"""Roles as files in a directory, named as the ceremony names them: the newest of each."""

from pathlib import Path

from mailboat_controller.trust.held_trust import version_of
from mailboat_schemas.errors import ConfigurationInvalid, NotFound
from mailboat_schemas.trust import ROLE_BYTES_MAX

_ROOT_SUFFIX = ".root"


def read_roles(directory: Path) -> dict[str, bytes]:
    """Newest bytes by role name, the root's too. Nothing is verified.

    Args:
        directory: with ``1.root.json``, ``targets.json``, ``approval-vad.json`` …; or a ceremony's
            directory, where they are in ``controller/trust``.

    Raises:
        NotFound: there are none. ConfigurationInvalid: one cannot be read.
    """
    within = directory / "controller" / "trust"
    place = within if within.is_dir() else directory
    newest: dict[str, tuple[int, bytes]] = {}
    for path in sorted(place.glob("*.json")):
        name = path.name.removesuffix(".json")
        role = "root" if name.endswith(_ROOT_SUFFIX) else name
        version, content = _read(path)
        if role not in newest or newest[role][0] < version:
            newest[role] = (version, content)
    if not {"root", "targets"} <= newest.keys():
        raise NotFound(
            f"There are no roles in {place}.",
            next_step="name the directory with 1.root.json and targets.json, "
            "or leave --from out and ask the controller.",
        )
    return {role: content for role, (_version, content) in newest.items()}


def _read(path: Path) -> tuple[int, bytes]:
    try:
        with path.open("rb") as file:
            content = file.read(ROLE_BYTES_MAX)  # one cut off there is no JSON any more
        return version_of(content), content
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationInvalid(
            f"{path} is not trust metadata: {error}.",
            next_step="copy the file again from where the roles are.",
        ) from error

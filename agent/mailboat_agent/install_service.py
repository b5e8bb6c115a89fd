"""The agent and its workers as systemd units: written from what is shipped, with this host's paths.

Only files are written. Loading and starting them is the operator's next command, which this names.
"""

import stat
import sys
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from mailboat_agent.atomic_file import disk_errors, replace_durably
from mailboat_agent.config import KEY_CREDENTIAL, AgentConfig
from mailboat_schemas.errors import ConfigurationInvalid

STATE_DIRECTORY = Path("/var/lib/mailboat")  # StateDirectory= of the unit
UNITS = ("mailboat-agent.service", "mailboat-worker.socket", "mailboat-worker@.service")
SYSUSERS = "mailboat.sysusers"
# A worker is the interpreter, the runtime and one release at its peak.
WORKER_HEADROOM_BYTES = 512 << 20
# What ProtectHome= and PrivateTmp= of the units keep out of sight.
HIDDEN = frozenset(map(Path, ("/home", "/root", "/run/user", "/tmp", "/var/tmp")))  # noqa: S108
START = (
    "systemd-sysusers && systemctl daemon-reload && "
    "systemctl enable --now mailboat-worker.socket mailboat-agent.service"
)

_SHIPPED_AGENT = "/opt/mailboat/bin/mailboat-agent"
_SHIPPED_PYTHON = "/opt/mailboat/bin/python "
_SHIPPED_CONFIG = "/var/lib/mailboat/agent.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """``root`` is this machine's, or of an image being made; other paths are as seen within it.

    ``key_credential`` is a file that only root can read, handed to the agent as a credential.
    """

    config: Path
    root: Path = Path("/")
    key_credential: Path | None = None
    encrypted: bool = False


def unit_files(installation: Installation) -> dict[str, str]:
    """Path below the root directory to content, ready to be written.

    Raises:
        ConfigurationInvalid: the configuration cannot be read, or the unit's user could not reach
            the files it names, its key, or the programs.
    """
    path = installation.config.absolute()
    config = AgentConfig.read(_below(installation.root, path))
    _refuse_unreachable(config, path, installation)
    _refuse_without_key(config, path, installation)
    _refuse_hidden(installation)
    programs = Path(sys.executable).parent
    found = {}
    for name in UNITS:
        content = _shipped(name)
        content = content.replace(_SHIPPED_AGENT, _quoted(programs / "mailboat-agent"))
        content = content.replace(_SHIPPED_PYTHON, _quoted(Path(sys.executable)) + " ")
        content = content.replace(_SHIPPED_CONFIG, _quoted(path))
        found[f"etc/systemd/system/{name}"] = content
    agent = f"etc/systemd/system/{UNITS[0]}"
    lines = found[agent].replace("\n# Who it is", f"{_credential(installation)}\n# Who it is")
    found[agent] = lines
    worker = f"etc/systemd/system/{UNITS[2]}"
    memory_mib = (config.memory_budget + WORKER_HEADROOM_BYTES) >> 20
    found[worker] = found[worker].replace("MemoryMax=1G", f"MemoryMax={memory_mib}M")
    found["etc/sysusers.d/mailboat.conf"] = _shipped(SYSUSERS)
    return found


def write(files: dict[str, str], root: Path) -> list[Path]:
    """Write them below ``root``; returns where each went. May be repeated.

    Raises:
        DiskFull, DiskFailing
    """
    written = []
    for name, content in files.items():
        path = root / name
        with disk_errors(f"making {path.parent}"):
            path.parent.mkdir(parents=True, exist_ok=True)
        replace_durably(path, content.encode(), mode=0o644)
        written.append(path)
    return written


def _shipped(name: str) -> str:
    return resources.files("mailboat_agent").joinpath("systemd", name).read_text(encoding="utf-8")


def _credential(installation: Installation) -> str:
    if installation.key_credential is None:
        return ""
    word = "LoadCredentialEncrypted" if installation.encrypted else "LoadCredential"
    source = str(installation.key_credential.absolute()).replace("%", "%%")
    return (
        "\n# The device's key: for this process alone, in memory that is never swapped."
        f"\n{word}={KEY_CREDENTIAL}:{source}\n"
    )


def _refuse_unreachable(config: AgentConfig, path: Path, installation: Installation) -> None:
    """The unit's user has no name before it runs: what it may read is what systemd hands to it."""
    needed = {
        "this file": path,
        "data_dir": config.data_dir,
        "ca": config.ca,
        "certificate": config.certificate,
        "trust_root": config.trust_root,
    }
    if installation.key_credential is None:
        needed["key"] = config.key
    directories = (STATE_DIRECTORY, _below(installation.root, STATE_DIRECTORY))
    outside = [
        name
        for name, each in needed.items()
        if not any(
            each.is_relative_to(directory) or each.resolve().is_relative_to(directory.resolve())
            for directory in directories
        )
    ]
    if outside:
        raise ConfigurationInvalid(
            f"{path}: {', '.join(outside)} lies outside of {STATE_DIRECTORY}, the only directory "
            "that the unit can read and write.",
            next_step=f"enrol with --config {_SHIPPED_CONFIG} --data-dir {STATE_DIRECTORY}/data, "
            f"or move the directory of agent.toml to {STATE_DIRECTORY}.",
        )


def _refuse_without_key(config: AgentConfig, path: Path, installation: Installation) -> None:
    places = (config.key, _below(installation.root, config.key))
    if installation.key_credential is None and not any(each.exists() for each in places):
        raise ConfigurationInvalid(
            f"{path}: the key {config.key} does not exist; the unit would not start.",
            next_step="enrol first; or, if the key is a credential, name it with --key-credential "
            "as the first time.",
        )


def hidden_in(executable: Path) -> Path | None:
    """The directory that keeps a program of this machine from the units' users; None if none does.

    It may be a link that leads into somebody's home, as those of version managers do.
    """
    for path in (executable, executable.resolve()):
        for directory in reversed(path.parents):
            if directory in HIDDEN or not directory.stat().st_mode & stat.S_IXOTH:
                return directory
    return None


def _refuse_hidden(installation: Installation) -> None:
    """Of a program it cannot reach, systemd says no more than status 203/EXEC."""
    executable = Path(sys.executable)
    if installation.root != Path("/"):
        return  # how it lies there is not for this machine to tell
    if directory := hidden_in(executable):
        raise ConfigurationInvalid(
            f"{executable} is in {directory}, or leads there, and the units' users may not.",
            next_step="install Mailboat elsewhere with the system's Python: "
            "python3 -m venv /opt/mailboat",
        )


def _below(root: Path, path: Path) -> Path:
    return root / path.relative_to("/")


def _quoted(path: Path) -> str:
    """For a unit file. Source: systemd.service(5), "Command lines"; systemd.unit(5), specifiers."""
    text = str(path).replace("%", "%%")
    if any(character in text for character in "\"'\\\n$;"):
        raise ConfigurationInvalid(
            f"{path} cannot stand in a unit file.",
            next_step="choose a path without quotes, backslashes, dollars and semicolons.",
        )
    return f'"{text}"' if " " in text else text

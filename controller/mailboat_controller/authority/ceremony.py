"""The first ceremony: keys and version 1 of every role, sorted into folders by who may hold them.

```text
DIR/offline/      root-1.pem …, targets-1.pem …   to be carried away and kept apart
DIR/ci/           <model>.pem                      to the pipeline that releases the model
DIR/approver/     <model>.pem                      to the people who approve it
DIR/fleet/        policy.pem, config.pem           to those who decide for the whole fleet
DIR/controller/   keys/{snapshot,timestamp,director}.pem   trust/*.json   to the controller
DIR/root.json     the factory root, to every device
```
The controller's folder contains no key that could release or approve anything. Every key has a
name for people, which the metadata carries. ``policy`` and ``config`` have keys of their own: the
approver of one model has no say over the others, and a stolen key is retired in one place.
"""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Targets

from mailboat_controller.authority import roles
from mailboat_controller.authority.changes import KEYS_PER_ROLE_MAX
from mailboat_controller.authority.keys import create_key
from mailboat_controller.authority.online import ONLINE_ROLES
from mailboat_schemas.errors import ConfigurationInvalid, Conflict
from mailboat_schemas.names import is_label
from mailboat_schemas.trust import FLEET_ROLES, approval_role, release_role


@dataclass(frozen=True, slots=True, kw_only=True)
class Quorum:
    """k of n keys for an offline role."""

    threshold: int
    keys: int

    def __post_init__(self) -> None:
        if not 1 <= self.threshold <= self.keys <= KEYS_PER_ROLE_MAX:
            raise ConfigurationInvalid(
                f"{self.threshold} of {self.keys} keys is not a possible quorum.",
                next_step=f"write k-of-n with 1 <= k <= n <= {KEYS_PER_ROLE_MAX}, such as 2-of-3.",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceremony:
    """What to make. ``passphrase`` encrypts the offline, CI and approver keys."""

    models: tuple[str, ...]
    root: Quorum
    targets: Quorum
    approval: Quorum
    passphrase: bytes | None = None


def hold(ceremony: Ceremony, directory: Path, now: datetime) -> Path:
    """Make all keys and roles below ``directory``; returns the factory root's path.

    Raises:
        Conflict: the directory is not empty.
        ConfigurationInvalid: a model name that cannot stand in a path, or the same one twice.
    """
    for model in ceremony.models:
        if not is_label(model):
            raise ConfigurationInvalid(
                f"{model!r} cannot be a model name.",
                next_step="use lower-case letters, digits and inner hyphens.",
            )
    if len(set(ceremony.models)) != len(ceremony.models):
        raise ConfigurationInvalid("A model is named twice.", next_step="name each model once.")
    if directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
        raise Conflict(
            f"{directory} is not an empty directory.", next_step="choose a new directory."
        )
    offline = {
        role: _make_keys(directory / "offline", role, role, quorum, ceremony.passphrase)
        for role, quorum in (("root", ceremony.root), ("targets", ceremony.targets))
    }
    online = {
        role: create_key(directory / "controller" / "keys" / f"{role}.pem", name=role)
        for role in ONLINE_ROLES
    }
    files = _first_roles(ceremony, directory, offline, online, now)
    trust = directory / "controller" / "trust"
    trust.mkdir(parents=True)
    for name, content in files.items():
        (trust / name).write_bytes(content)
    factory_root = directory / "root.json"
    factory_root.write_bytes(files["1.root.json"])
    return factory_root


def _first_roles(
    ceremony: Ceremony,
    directory: Path,
    offline: dict[str, list[CryptoSigner]],
    online: dict[str, CryptoSigner],
    now: datetime,
) -> dict[str, bytes]:
    top_level = {
        **offline,
        "snapshot": [online["snapshot"]],
        "timestamp": [online["timestamp"]],
    }
    root = roles.make_root(
        {role: [signer.public_key for signer in signers] for role, signers in top_level.items()},
        {"root": ceremony.root.threshold, "targets": ceremony.targets.threshold},
        now,
    )
    targets = roles.make_targets(online["director"].public_key, now)
    delegated = _delegate(ceremony, directory, targets, now)
    snapshot = roles.sign(
        roles.make_snapshot({"targets": 1, **dict.fromkeys(delegated, 1)}, now),
        [online["snapshot"]],
    )
    timestamp = roles.sign(roles.make_timestamp(snapshot, 1, now), [online["timestamp"]])
    return {
        "1.root.json": roles.sign(root, offline["root"]),
        "targets.json": roles.sign(targets, offline["targets"]),
        "snapshot.json": snapshot,
        "timestamp.json": timestamp,
        **{f"{role}.json": content for role, content in delegated.items()},
    }


def _delegate(
    ceremony: Ceremony, directory: Path, targets: Targets, now: datetime
) -> dict[str, bytes]:
    """Keys, delegation and empty version 1 of every role below targets."""
    one = Quorum(threshold=1, keys=1)
    wanted: list[tuple[str, str, str, str, Quorum]] = []
    for model in ceremony.models:
        wanted += [
            (release_role(model), "ci", model, f"{model} pipeline", one),
            (approval_role(model), "approver", model, f"{model} approver", ceremony.approval),
        ]
    wanted += [(role, "fleet", role, role, ceremony.approval) for role in FLEET_ROLES]
    delegated: dict[str, bytes] = {}
    for role, folder, file, name, quorum in wanted:
        signers = _make_keys(directory / folder, file, name, quorum, ceremony.passphrase)
        keys = [signer.public_key for signer in signers]
        roles.delegate(targets, role, keys, quorum.threshold)
        delegated[role] = roles.sign(roles.empty_role(now, roles.valid_for(role)), signers)
    return delegated


def _make_keys(
    directory: Path, file: str, name: str, quorum: Quorum, passphrase: bytes | None
) -> list[CryptoSigner]:
    """One key is called ``file.pem``, several ``file-1.pem``, ``file-2.pem``, …"""
    if quorum.keys == 1:
        return [create_key(directory / f"{file}.pem", passphrase=passphrase, name=name)]
    return [
        create_key(directory / f"{file}-{n}.pem", passphrase=passphrase, name=f"{name} {n}")
        for n in range(1, quorum.keys + 1)
    ]

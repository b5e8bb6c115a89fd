"""The first ceremony: keys and version 1 of every role, sorted into folders by who may hold them.

```text
DIR/offline/      root-1.pem …, targets-1.pem …   to be carried away and kept apart
DIR/ci/           <model>.pem                      to the pipeline that releases the model
DIR/approver/     <model>.pem                      to the people who approve it
DIR/controller/   keys/{snapshot,timestamp,director}.pem   trust/*.json   to the controller
DIR/root.json     the factory root, to every device
```
The controller's folder contains no key that could release or approve anything.
"""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from securesystemslib.signer import CryptoSigner

from mailboat_controller.authority import roles
from mailboat_controller.authority.keys import create_key
from mailboat_controller.authority.online import ONLINE_ROLES
from mailboat_schemas.errors import ConfigurationInvalid, Conflict
from mailboat_schemas.names import is_label
from mailboat_schemas.trust import approval_role, release_role

KEYS_PER_ROLE_MAX = 16


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
        role: _make_keys(directory / "offline", role, quorum, ceremony.passphrase)
        for role, quorum in (("root", ceremony.root), ("targets", ceremony.targets))
    }
    online = {
        role: create_key(directory / "controller" / "keys" / f"{role}.pem") for role in ONLINE_ROLES
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
    delegated: dict[str, bytes] = {}
    for model in ceremony.models:
        ci = create_key(directory / "ci" / f"{model}.pem", passphrase=ceremony.passphrase)
        approvers = _make_keys(
            directory / "approver", model, ceremony.approval, ceremony.passphrase
        )
        roles.delegate_model(
            targets,
            model,
            release_keys=[ci.public_key],
            approval_keys=[approver.public_key for approver in approvers],
            approval_threshold=ceremony.approval.threshold,
        )
        released = roles.empty_role(now, roles.RELEASE_ROLE_VALID)
        approved = roles.empty_role(now, roles.APPROVAL_ROLE_VALID)
        delegated[release_role(model)] = roles.sign(released, [ci])
        delegated[approval_role(model)] = roles.sign(approved, approvers)
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


def _make_keys(
    directory: Path, name: str, quorum: Quorum, passphrase: bytes | None
) -> list[CryptoSigner]:
    """One key is called ``name.pem``, several ``name-1.pem``, ``name-2.pem``, …"""
    names = [name] if quorum.keys == 1 else [f"{name}-{n + 1}" for n in range(quorum.keys)]
    return [create_key(directory / f"{each}.pem", passphrase=passphrase) for each in names]

"""How far each role has come on this device: versions that must not go down, and whose keys."""

import hashlib
from collections.abc import Iterable, Mapping
from contextlib import suppress

from pydantic import BaseModel, ConfigDict

from mailboat_schemas.errors import FastForwardRefused, TrustRefused
from mailboat_schemas.trust import TrustView

# How far a version may be ahead of the one held: signing every minute takes two years. Who holds a
# stolen key cannot shut out its owner at one stroke, and is heard of before.
VERSION_STEP_MAX = 1 << 20


class Highest(BaseModel):
    """The highest accepted version of one role, and a hash of the keys that sign it."""

    model_config = ConfigDict(frozen=True)

    version: int
    keys: str


def refuse_fast_forward(what: str, offered: int, held: int) -> None:
    """
    Raises:
        FastForwardRefused: more than `VERSION_STEP_MAX` ahead of what is held.

    Source: TUF specification, "Fast-forward attacks"; recovery is section 5.3.11.
    """
    if offered - held > VERSION_STEP_MAX:
        raise FastForwardRefused(what, offered, held)


def roles_of(view: TrustView) -> dict[str, Highest]:
    """Version and keys of every role in a verified set."""
    root = view.root.signed
    roles = {
        name: Highest(version=version, keys=_keys_hash(root.roles[name].keyids))
        for name, version in view.versions().items()
    }
    delegations = None if view.targets is None else view.targets.delegations
    delegated = {} if delegations is None else delegations.roles or {}
    for name, role in delegated.items():
        with suppress(TrustRefused):
            metadata = view.delegated(name)
            if metadata is not None:
                roles[name] = Highest(version=metadata.version, keys=_keys_hash(role.keyids))
    return roles


def still_delegated(name: str, view: TrustView, roles: Mapping[str, Highest]) -> bool:
    """Whether a file belongs to the set: python-tuf leaves behind roles that have lost their keys.

    A role nobody asked for this time stays only while its delegation still vouches for it.
    """
    if "/" in name or name.removesuffix(".json") in view.versions():
        return True
    role = name.removesuffix(".json")
    with suppress(TrustRefused):
        return role in roles and view.delegated(role) is not None
    return False


def _keys_hash(keyids: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(sorted(keyids)).encode()).hexdigest()[:16]

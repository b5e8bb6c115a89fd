"""What attackers do to signed messages, and what owners do who have been robbed."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root, Targets

from mailboat_controller.authority import roles
from mailboat_controller.authority.keys import load_key
from mailboat_schemas.codec import decode, encode
from mailboat_schemas.desired import Assignment, DesiredState, FreshTimestamp, ManifestBundle
from model_fleet import CLASS, FLEET, MODEL, ModelFleet

APPROVAL, RELEASE = f"approval-{MODEL}", f"release-{MODEL}"


# --- messages ------------------------------------------------------------------------------------


def altered(bundle: bytes, *, trust: Mapping[str, bytes] | None = None, **fields: Any) -> bytes:
    """A bundle with some of its metadata, or of its fields, exchanged."""
    content = decode(ManifestBundle, bundle)
    return encode(
        content.model_copy(update={"trust": {**content.trust, **(trust or {})}, **fields})
    )


def without(bundle: bytes, *names: str) -> bytes:
    content = decode(ManifestBundle, bundle)
    trust = {name: each for name, each in content.trust.items() if name not in names}
    return encode(content.model_copy(update={"trust": trust}))


def file_of(bundle: bytes, role: str) -> str:
    """The name under which a role stands in a bundle."""
    return next(
        name
        for name in decode(ManifestBundle, bundle).trust
        if name.removesuffix(".json").split(".", 1)[-1] == role
    )


def fresh(timestamp: bytes, *, hardware_class: str = CLASS) -> bytes:
    return encode(FreshTimestamp(fleet=FLEET, hardware_class=hardware_class, timestamp=timestamp))


def desired_by(fleet: ModelFleet, counter: int, *assignments: Assignment, **fields: Any) -> bytes:
    """A desired state signed by the director, with any counter, fleet or class."""
    content = {
        "fleet": FLEET,
        "hardware_class": CLASS,
        "counter": counter,
        "issued": int(fleet.now.timestamp()),
        "assignments": assignments,
        **fields,
    }
    return fleet.online.sign_desired(DesiredState.model_validate(content))


# --- signatures ----------------------------------------------------------------------------------


def unsigned(role: bytes) -> bytes:
    return _changed(role, lambda content: content.update(signatures=[]))


def signed_twice(role: bytes) -> bytes:
    """The first signature once more."""
    return _changed(role, lambda content: content["signatures"].append(content["signatures"][0]))


def fewer_signatures(role: bytes, keep: int) -> bytes:
    return _changed(role, lambda content: content.update(signatures=content["signatures"][:keep]))


def changed_inside(role: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    """The signed part altered, the signatures as they were."""
    return _changed(role, lambda content: change(content["signed"]))


def _changed(role: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    content = json.loads(role)
    change(content)
    return json.dumps(content).encode()


def signed_again(role: bytes, *signers: CryptoSigner) -> bytes:
    """The same contents under other signatures."""
    signed: Any = Metadata.from_bytes(role).signed
    return roles.sign(signed, signers)


def key_of(fleet: ModelFleet, name: str) -> CryptoSigner:
    """``ci/vad``, ``approver/vad``, ``offline/root``, …"""
    return load_key(fleet.directory / f"{name}.pem")


# --- what online keys can do ---------------------------------------------------------------------


def pinned(fleet: ModelFleet, snapshot: bytes) -> None:
    """Publish this snapshot: whoever has the timestamp key can."""
    fleet.roles["snapshot"] = snapshot
    fleet.roles["timestamp"] = fleet.online.sign_timestamp(
        fleet.roles["timestamp"], snapshot, now=fleet.now
    )


def pin_versions(fleet: ModelFleet, **changed: int | None) -> None:
    """A snapshot with these role versions, or without these roles, by a stolen snapshot key."""
    snapshot: Any = Metadata.from_bytes(fleet.roles["snapshot"]).signed
    for role, version in changed.items():
        name = f"{role.replace('_', '-')}.json"
        if version is None:
            del snapshot.meta[name]
        else:
            snapshot.meta[name].version = version
    snapshot.version += 1
    pinned(fleet, roles.sign(snapshot, [fleet.online.snapshot]))


# --- rotations -----------------------------------------------------------------------------------


def next_root(fleet: ModelFleet, change: Callable[[Root], None] = lambda _: None) -> bytes:
    """Root version + 1, signed by the offline root key; not published yet."""
    root: Metadata[Root] = Metadata[Root].from_bytes(fleet.roots[-1])
    change(root.signed)
    root.signed.version += 1
    return roles.sign(root.signed, [key_of(fleet, "offline/root")])


def rotate_online(fleet: ModelFleet, role: str) -> None:
    """A new key for ``timestamp`` or ``snapshot``, by way of the root."""
    old, new = getattr(fleet.online, role), CryptoSigner.generate_ed25519()

    def exchange(root: Root) -> None:
        root.revoke_key(old.public_key.keyid, role)
        root.add_key(new.public_key, role)

    fleet.roots.append(next_root(fleet, exchange))
    fleet.online = replace(fleet.online, **{role: new})


def change_targets(fleet: ModelFleet, change: Callable[[Targets], None]) -> None:
    """Targets version + 1, signed by the offline targets key, and pinned."""
    targets: Metadata[Targets] = Metadata[Targets].from_bytes(fleet.roles["targets"])
    change(targets.signed)
    targets.signed.version += 1
    fleet.roles["targets"] = roles.sign(targets.signed, [key_of(fleet, "offline/targets")])
    fleet.resign()


def rotate_director(fleet: ModelFleet) -> None:
    old, new = fleet.online.director, CryptoSigner.generate_ed25519()

    def exchange(targets: Targets) -> None:
        targets.revoke_key(old.public_key.keyid, "director")
        targets.add_key(new.public_key, "director")

    change_targets(fleet, exchange)
    fleet.online = replace(fleet.online, director=new)


def approvers(fleet: ModelFleet, *signers: CryptoSigner, threshold: int) -> None:
    """From now on these sign approvals, so many of them; the role is signed again by them all."""

    def exchange(targets: Targets) -> None:
        assert targets.delegations is not None
        assert targets.delegations.roles is not None
        for keyid in list(targets.delegations.roles[APPROVAL].keyids):
            targets.revoke_key(keyid, APPROVAL)
        for signer in signers:
            targets.add_key(signer.public_key, APPROVAL)
        targets.delegations.roles[APPROVAL].threshold = threshold

    role: Any = Metadata.from_bytes(fleet.roles[APPROVAL]).signed
    role.version += 1
    fleet.roles[APPROVAL] = roles.sign(role, signers)
    change_targets(fleet, exchange)
